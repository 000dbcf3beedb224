"""Expected metrics and costs at a given prior."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from roadwork.core.errors import ConfigError
from roadwork.metrics.classification import mcc, precision, recall
from roadwork.metrics.intervals import effective_groups

SAMPLE, BALANCED = "sample", "balanced"

# Two intervals at 97.5 % hold jointly at 95 % (Bonferroni).
_TAIL = 0.0125


def parse_prior(text: str) -> float | None:
    """The share of Roadwork in a user's input: a number, `balanced` (0.5), or `sample` (None).

    Raises:
        ConfigError: it is none of these, or not between 0 and 1.
    """
    if text == SAMPLE:
        return None
    try:
        prior = 0.5 if text == BALANCED else float(text)
    except ValueError:
        prior = float("nan")
    if not 0 < prior < 1:
        raise ConfigError(
            f"--prior is {text}; it must be {SAMPLE}, {BALANCED}, or a share above 0 and below 1, as 0.01."
        )
    return prior


def at_prior(counts: np.ndarray, prior: float | None) -> np.ndarray:
    """Confusion counts (..., 4) as shares of a population with this share of Roadwork; None: the sample's share.

    The recall of each class stays the same. All shares are 0 if a class has no row.
    """
    counts = np.asarray(counts, dtype=np.float64)
    by_class = counts.reshape(*counts.shape[:-1], 2, 2)
    sizes = by_class.sum(axis=-1)
    shares = sizes / sizes.sum(axis=-1, keepdims=True) if prior is None else np.array([1 - prior, prior])
    has_both = (sizes > 0).all(axis=-1, keepdims=True)
    weights = np.divide(shares, sizes, out=np.zeros(sizes.shape), where=has_both)
    weighted: np.ndarray = (by_class * weights[..., None]).reshape(counts.shape)
    return weighted


@dataclass(frozen=True)
class Costs:
    """The costs of a miss and of a false alarm, in the same unit."""

    miss: float = 1.0
    false_alarm: float = 1.0


def decision_figures(shares: np.ndarray, costs: Costs) -> dict[str, float | None]:
    """MCC, precision (None without detections), recall and mean cost per photo, from shares tn, fp, fn, tp (4,)."""
    called = float(precision(shares))
    return {
        "mcc": float(mcc(shares)),
        "precision": None if np.isnan(called) else called,
        "recall": float(recall(shares)),
        "cost": float(costs.false_alarm * shares[1] + costs.miss * shares[2]),
    }


def figures_with_intervals(counts: np.ndarray, prior: float | None, costs: Costs) -> dict[str, float | None]:
    """The metrics, and a 95 % interval of each as `<name>_low` and `<name>_high`.

    No false alarm among a few hundred photos does not mean few false alarms where roadwork is rare. So the rates of
    false alarms and misses each get an exact interval, which assumes that the rows of a group fail together
    (Clopper-Pearson with Kish's effective number of groups; docs/decisions/0003-intervals.md). Every metric is monotone
    in both rates, so its interval runs between its values at the highest and at the lowest rates.

    Args:
        counts: (G, 4) tn, fp, fn, tp by group, both classes present.
        prior: Share of Roadwork; None: the sample's.
        costs: Costs of errors.
    """
    total = counts.sum(axis=0)
    none, roadwork = total[:2].sum(), total[2:].sum()
    share = roadwork / (none + roadwork) if prior is None else prior
    rates = np.array([rate_interval(counts[:, 1], counts[:, :2].sum(axis=1)),
                      rate_interval(counts[:, 2], counts[:, 2:].sum(axis=1))])  # fmt: skip
    best, worst = (
        decision_figures(
            np.array([(1 - share) * (1 - alarms), (1 - share) * alarms, share * misses, share * (1 - misses)]), costs
        )
        for alarms, misses in rates.T
    )
    figures = decision_figures(at_prior(total, prior), costs)
    for name in tuple(figures):
        low, high = (best, worst) if name == "cost" else (worst, best)
        figures |= {f"{name}_low": low[name], f"{name}_high": high[name]}
    return figures


def rate_interval(errors: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """97.5 % Clopper-Pearson interval of an error rate, from wrong rows and all rows by group (G,), which may be 0."""
    trials = effective_groups(sizes)
    failures = trials * errors.sum() / sizes.sum()
    low = stats.beta.ppf(_TAIL, failures, trials - failures + 1) if failures > 0 else 0.0
    high = stats.beta.ppf(1 - _TAIL, failures + 1, trials - failures) if failures < trials else 1.0
    return float(low), float(high)
