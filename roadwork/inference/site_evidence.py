"""How sure one can be of a site that several photos show."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from roadwork.calibration.probabilities import LIMIT
from roadwork.errors import ConfigError

# Share of the photos within the radius of a roadwork that show it; the others look elsewhere. Assumed.
_VISIBLE = 0.5


def combine_photos(photos: pd.DataFrame, *, prior: float | None) -> np.ndarray:
    """(K,) probability that there was roadwork at each of K sites.

    The photos of a site share a scene, a light and one model's errors. To multiply their odds, as for independent
    evidence, would make four photos at 0.9 a certainty. Instead:

    - **A photo** is evidence by its log likelihood ratio, logit(p) - logit(prior) (Good, Weighing evidence, 1950).
    - **A day** is heard once, by its strongest photo. Against it stands the strongest photo of the same day that was
      answered None: a mixture, log(s exp(l) + 1 - s) with s = 1/2, since such a camera may have looked elsewhere. So it
      halves the odds at most. On other days the roadwork may not have begun, or have ended, so None says nothing then.
    - **Days** are dependent too. With a correlation of 1/2 between any two, K days are worth
      K / (1 + (K - 1) / 2) independent ones (the design effect: Kish, Survey Sampling, 1965), so the k-th
      strongest day adds 2 / (k (k + 1)) of its evidence, and all together never more than twice the strongest. A day
      that speaks against what a stronger one showed adds nothing.

    One photo gives its own probability, repeated photos add nothing, a further Roadwork photo never lowers it, and a
    None never raises it. The two halves are assumed, not fitted. A site is there because some photo fired, and of many
    photos some fire wrongly, which no rule for one site can see: take it as an order, with figures on the careful side.

    Args:
        photos: `site`, 0 to K - 1, each with a Roadwork photo; `day`, any values; `probability`; `is_roadwork`.
        prior: share of Roadwork that the probabilities are meant for; None counts as 0.5.

    Raises:
        ConfigError: the prior is not between 0 and 1.
    """
    if prior is not None and not 0 < prior < 1:
        raise ConfigError(f"The prior is {prior}; it must be above 0 and below 1.")
    base = float(logit(0.5 if prior is None else prior))
    ratio = pd.Series(np.clip(logit(photos["probability"].to_numpy()), -LIMIT, LIMIT) - base, photos.index)
    keys, is_roadwork = ["site", "day"], photos["is_roadwork"].to_numpy(dtype=bool)
    days = ratio[is_roadwork].groupby([photos.loc[is_roadwork, key] for key in keys]).max()
    lowest = ratio[~is_roadwork].groupby([photos.loc[~is_roadwork, key] for key in keys]).min()
    against = pd.Series(np.log(_VISIBLE * np.exp(lowest.to_numpy()) + 1 - _VISIBLE), lowest.index).clip(upper=0)
    table = (days + against.reindex(days.index, fill_value=0.0)).rename("evidence").reset_index()
    table = table.sort_values("evidence", ascending=False, kind="stable")
    rank = table.groupby("site").cumcount() + 1
    heard = table["evidence"].where(rank == 1, table["evidence"].clip(lower=0)) * 2 / (rank * (rank + 1))
    combined = heard.groupby(table["site"]).sum()
    probability: np.ndarray = expit(base + combined.to_numpy())
    return probability
