"""Chooses the threshold with the highest MCC, evaluated on groups outside the choice.

The best of many thresholds beats 0.5 by chance on the rows that chose it. So the whole choice is repeated on bootstrap
samples of groups. A group's decisions are averaged over the samples that do not contain it (leave-one-out bootstrap:
Efron and Tibshirani, Improvements on cross-validation: the .632+ bootstrap method, JASA 92, 1997). The gain over 0.5
and its interval by group are then computed as for any two detectors.

A bootstrap sample contains 63 % of the groups, so it chooses a worse threshold than all groups do. The gain is
therefore biased low: rely on the lower end of its interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from roadwork.calibration.figures import at_prior
from roadwork.core.progress import track
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import DEFAULT_THRESHOLD, decide
from roadwork.metrics.intervals import MIN_FAILED_GROUPS, Interval, draw_counts, effective_groups, percentile_interval

# MCCs that are mathematically equal differ by less than this in float64.
_EQUAL = 1e-12

# Rows times draws: takes some seconds.
_BUDGET = 10_000_000
_MIN_DRAWS = 200


class Cuts:
    """The cut points of a set of rows: one below each distinct probability, and one above the largest.

    A cut's threshold is the midpoint of its neighbours in logits, so it moves with a shift of all logits. The first
    and the last threshold are 1 logit beyond the outermost probabilities.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        weights: (N,) what each row counts; None: each counts 1.

    Attributes:
        thresholds: (K,) ascending; `probability >= threshold` is Roadwork.
        counts: (K, 4) confusion counts tn, fp, fn, tp.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> None:
        distinct, positions = np.unique(probabilities, return_inverse=True)
        logits = logit(distinct)
        between = expit((logits[:-1] + logits[1:]) / 2)
        # Two adjacent float64 values have no midpoint; the upper one separates them as well.
        between = np.where((between > distinct[:-1]) & (between <= distinct[1:]), between, distinct[1:])
        self.thresholds = np.concatenate([[expit(logits[0] - 1)], between, [expit(logits[-1] + 1)]])
        self._widths = np.concatenate([[0.0], np.diff(logits), [0.0]])
        rows = np.bincount(2 * positions + labels, weights, minlength=2 * len(distinct)).reshape(-1, 2)
        below = np.concatenate([np.zeros((1, 2), dtype=rows.dtype), np.cumsum(rows, axis=0)])
        above = np.maximum(below[-1] - below, 0)  # sums of weights are rounded
        self.counts = np.stack([below[:, 0], above[:, 0], below[:, 1], above[:, 1]], axis=-1)

    def best(self, prior: float | None) -> int:
        """Index of the cut with the highest MCC at a prior; ties go to the widest gap of logits."""
        scores = mcc(at_prior(self.counts, prior))
        equals = np.flatnonzero(scores >= scores.max() - _EQUAL)
        return int(equals[np.argmax(self._widths[equals])])


@dataclass(frozen=True)
class OutOfBag:
    """A choice of threshold, evaluated on groups outside the choice.

    Attributes:
        at_half: (G, 4) counts tn, fp, fn, tp by group at threshold 0.5.
        chosen: (G, 4) the same at the chosen thresholds, out of bag: means over draws.
        gain: MCC of `chosen` minus MCC of `at_half`, at the prior.
        gain_interval: 95 % interval of the gain, by group.
        threshold_interval: Range that contains 95 % of the chosen thresholds.
        draws: Number of bootstrap samples.
    """

    at_half: np.ndarray
    chosen: np.ndarray
    gain: float
    gain_interval: Interval
    threshold_interval: Interval
    draws: int


def evaluate_out_of_bag(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, prior: float | None, draws: int, seed: int
) -> OutOfBag:
    """The out-of-bag gain of a chosen threshold over 0.5.

    Above 5,000 rows (at 2,000 draws) the number of draws falls, down to 200, so that it takes only seconds.

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        groups: (N,) names or numbers.
        prior: Share of Roadwork to choose and evaluate for; None: the sample's.
        draws: Number of bootstrap samples.
        seed: Seed of the draws.
    """
    draws = min(draws, max(_MIN_DRAWS, _BUDGET // len(labels)))
    names, codes = np.unique(groups, return_inverse=True)
    thresholds, called = _choose_by_draw(labels, probabilities, codes, prior=prior, draws=draws, seed=seed)
    counts = np.stack(
        [_count_shares(labels, share, codes) for share in (decide(probabilities).astype(np.float64), called)], axis=1
    )  # (G, 2, 4)
    at_half, chosen = mcc(at_prior(counts.sum(axis=0), prior))
    drawn = draw_counts(counts.reshape(len(names), 8), draws=draws, seed=seed).reshape(draws, 2, 4)
    gains = np.diff(mcc(at_prior(drawn, prior)), axis=1)[:, 0]
    return OutOfBag(
        at_half=counts[:, 0],
        chosen=counts[:, 1],
        gain=float(chosen - at_half),
        gain_interval=percentile_interval(gains),
        threshold_interval=percentile_interval(thresholds),
        draws=draws,
    )


def _choose_by_draw(
    labels: np.ndarray, probabilities: np.ndarray, codes: np.ndarray, *, prior: float | None, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(draws,) thresholds, and (N,) share of the draws without the row's group that decide Roadwork for the row."""
    n_groups = codes.max() + 1
    rng = np.random.default_rng(seed)
    thresholds = np.empty(draws)
    called, unseen_in = np.zeros(len(labels)), np.zeros(n_groups)
    for draw in track(range(draws), draws, "Choosing thresholds"):
        times = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        rows = np.repeat(np.arange(len(labels)), times[codes])
        cuts = Cuts(labels[rows], probabilities[rows])
        thresholds[draw] = cuts.thresholds[cuts.best(prior)]
        unseen = times == 0
        unseen_in += unseen
        called += unseen[codes] * decide(probabilities, thresholds[draw])
    return thresholds, called / np.maximum(unseen_in, 1)[codes]


def _count_shares(labels: np.ndarray, called: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(G, 4) tn, fp, fn, tp by group, for rows decided as Roadwork with a share (N,) from 0 to 1."""
    shares = [(1 - labels) * (1 - called), (1 - labels) * called, labels * (1 - called), labels * called]
    return np.stack([np.bincount(codes, share) for share in shares], axis=-1)


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold, and the evidence for it.

    Attributes:
        threshold: `probability >= threshold` is Roadwork; 0.5 if the gain of `best` is not significant.
        best: The threshold with the highest MCC on the given rows.
        best_mcc: Its MCC on the same rows, which is biased high.
        kept: Whether `threshold` is `best`.
        out_of_bag: The choice, evaluated on groups outside it.
        deciding_groups: Effective number of groups in which 0.5 and `best` decide differently.
        sentence: A summary for people.
    """

    threshold: float
    best: float
    best_mcc: float
    kept: bool
    out_of_bag: OutOfBag
    deciding_groups: float
    sentence: str


def choose_threshold(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, prior: float | None, draws: int, seed: int
) -> ThresholdChoice:
    """The threshold with the highest MCC at a prior, or 0.5 if its gain on other groups is not significant.

    The gain is significant if its 95 % out-of-bag interval lies above 0, and if the two thresholds decide differently
    in at least `MIN_FAILED_GROUPS` effective groups. With fewer, bootstrap intervals are too narrow
    (docs/decisions/0003-intervals.md).

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        groups: (N,) names or numbers.
        prior: Share of Roadwork to choose for; None: the sample's.
        draws: Number of bootstrap samples.
        seed: Seed of the draws.
    """
    cuts = Cuts(labels, probabilities)
    number = cuts.best(prior)
    best, best_mcc = float(cuts.thresholds[number]), float(mcc(at_prior(cuts.counts[number], prior)))
    out_of_bag = evaluate_out_of_bag(labels, probabilities, groups, prior=prior, draws=draws, seed=seed)
    deciding = _deciding_groups(labels, probabilities, groups, best, prior)
    kept = out_of_bag.gain_interval[0] > 0 and deciding >= MIN_FAILED_GROUPS and best_mcc > 0
    return ThresholdChoice(
        threshold=best if kept else DEFAULT_THRESHOLD,
        best=best,
        best_mcc=best_mcc,
        kept=kept,
        out_of_bag=out_of_bag,
        deciding_groups=deciding,
        sentence=_explain(best, best_mcc, out_of_bag, deciding, kept=kept),
    )


def _explain(best: float, best_mcc: float, out_of_bag: OutOfBag, deciding: float, *, kept: bool) -> str:
    low = out_of_bag.gain_interval[0]
    gain = f"{out_of_bag.gain:+.4f} MCC on held-out groups, at least {low:+.4f} with 97.5 % confidence"
    if kept:
        lowest, highest = out_of_bag.threshold_interval
        interval = f"95 % interval {lowest:.4f} to {highest:.4f}"
        return f"Threshold {best:.4f} ({interval}): the gain over 0.5 is {gain}."
    if best_mcc <= 0:
        return "Threshold 0.5 (unchanged): the detector is not better than chance at any threshold."
    if deciding == 0:
        return "Threshold 0.5 (unchanged): no other threshold has a higher MCC on these rows."
    if deciding < MIN_FAILED_GROUPS:
        return (
            f"Threshold 0.5 (unchanged): the best one, {best:.4f}, decides differently in only {deciding:.1f} "
            f"effective groups. A significant gain needs at least {MIN_FAILED_GROUPS}."
        )
    return f"Threshold 0.5 (unchanged): the gain of the best one, {best:.4f}, is not significant: {gain}."


def _deciding_groups(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, best: float, prior: float | None
) -> float:
    """Effective number of groups in which 0.5 and the best threshold decide differently, rows weighted to the prior."""
    shares = at_prior(np.array([(labels == 0).sum(), 0, 0, (labels == 1).sum()]), prior)
    row_weights = np.where(labels == 1, shares[3] / (labels == 1).sum(), shares[0] / (labels == 0).sum())
    differs = decide(probabilities) != decide(probabilities, best)
    _, codes = np.unique(groups, return_inverse=True)
    return effective_groups(np.bincount(codes, row_weights * differs))
