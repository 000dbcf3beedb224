"""Abstention at a given risk, by conformal risk control.

The loss of a photo is 1 if its prediction is wrong and the detector does not abstain, else 0. The loss of a group is
the mean over its photos. It lies between 0 and 1 and only falls as the band around the threshold grows, which the
method requires (Angelopoulos, Bates, Fisch, Lei and Schuster, Conformal risk control, ICLR 2024, arXiv 2208.02814,
theorem 1). Let n groups be held out from the fit of temperature and threshold. The band is the narrowest with

    (sum of the n losses + 1) / (n + 1) <= risk

Then the expected loss of one more group is at most the risk, for any detector and any errors, if the n + 1 groups are
exchangeable: as if drawn from one population in random order. The expectation is also over the n groups. There is no
guarantee for the error rate *among decided photos*, because this ratio is not monotone, nor for a single group, nor
for groups from other regions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from roadwork.metrics.decision import decide

# Widens the band, so that rounding cannot exclude the last wrong row.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Band:
    """The band of probabilities at which the detector abstains: `low <= probability <= high`.

    Attributes:
        low: 0 if the detector must always abstain; None, like `high`, if it never needs to.
        high: 1 if the detector must always abstain.
        bound: (sum of losses + 1) / (n + 1), at most the risk unless the detector must always abstain.
        n_groups: n.
    """

    low: float | None
    high: float | None
    bound: float
    n_groups: int

    def abstains(self, probabilities: np.ndarray) -> np.ndarray:
        """(N,) bool of probabilities (N,)."""
        if self.low is None or self.high is None:
            return np.zeros(len(probabilities), dtype=bool)
        inside: np.ndarray = (probabilities >= self.low) & (probabilities <= self.high)
        return inside


def groups_needed(risk: float) -> int:
    """The fewest groups that can guarantee a risk: with fewer, 1 / (n + 1) alone exceeds it."""
    return math.ceil(round(1 / risk, 9)) - 1


def choose_band(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, threshold: float, risk: float
) -> Band:
    """The narrowest band around the threshold, symmetric in logits, that controls the risk.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        groups: (N,) names or numbers, not used to fit the temperature or the threshold.
        threshold: `probability >= threshold` is Roadwork.
        risk: Above 0 and below 1.
    """
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n_groups = len(sizes)
    wrong = decide(probabilities, threshold) != labels
    distances = np.abs(logit(probabilities[wrong]) - logit(threshold))
    # Abstaining on rows in order of rising distance removes their losses one by one.
    rising = np.argsort(distances, kind="stable")
    losses = (1 / sizes[codes[wrong]])[rising]
    bounds = (np.concatenate([np.cumsum(losses[::-1])[::-1], [0.0]]) + 1) / (n_groups + 1)
    kept_out = int(np.argmax(bounds <= risk + _ROUNDING))
    if bounds[kept_out] > risk + _ROUNDING:
        return Band(0.0, 1.0, float(bounds[-1]), n_groups)
    if kept_out == 0:
        return Band(None, None, float(bounds[0]), n_groups)
    half_width = float(distances[rising][kept_out - 1]) * (1 + _ROUNDING) + _ROUNDING
    # Rows at the same distance are excluded together.
    bound = (losses[distances[rising] > half_width].sum() + 1) / (n_groups + 1)
    low, high = expit(logit(threshold) - half_width), expit(logit(threshold) + half_width)
    return Band(float(low), float(high), float(bound), n_groups)
