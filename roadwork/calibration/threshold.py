"""The threshold with the highest MCC, kept only where groups outside the choice gain by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.calibration.cuts import Cuts
from roadwork.calibration.out_of_bag import OutOfBag, judge_out_of_bag
from roadwork.calibration.priors import at_prior
from roadwork.evaluation.intervals import MIN_FAILED_GROUPS, effective_groups
from roadwork.evaluation.metrics import decide, mcc

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class ThresholdChoice:
    """Which threshold to use, and what spoke for it.

    Attributes:
        threshold: `probability >= threshold` is Roadwork; 0.5 where the best one was not kept.
        best: The one with the highest MCC on the rows given.
        best_mcc: Its MCC on these very rows: more than it will be elsewhere.
        kept: Whether `threshold` is `best`.
        out_of_bag: The choice judged on groups outside it.
        deciding_groups: Effective number of groups in which 0.5 and `best` decide differently.
        sentence: All this for a reader.
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
    """The threshold with the highest MCC at a prior, or 0.5 where nothing shows that it gains elsewhere.

    It is kept where the 95 % interval of the out-of-bag gain lies above 0, and 0.5 and it decide differently in at
    least `MIN_FAILED_GROUPS` effective groups: of fewer, a bootstrap is too sure (docs/decisions/0003-intervals.md).

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        groups: (N,) names or numbers.
        prior: Share of Roadwork to choose for; None: the sample's.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    cuts = Cuts(labels, probabilities)
    number = cuts.best(prior)
    best, best_mcc = float(cuts.thresholds[number]), float(mcc(at_prior(cuts.counts[number], prior)))
    out_of_bag = judge_out_of_bag(labels, probabilities, groups, prior=prior, draws=draws, seed=seed)
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
    gain = f"{out_of_bag.gain:+.4f} MCC on groups outside the choice, at least {low:+.4f} with 97.5 % confidence"
    if kept:
        lowest, highest = out_of_bag.threshold_interval
        interval = f"95 % interval {lowest:.4f} to {highest:.4f}"
        return f"Threshold {best:.4f} ({interval}): against 0.5 it gains {gain}."
    if best_mcc <= 0:
        return "Threshold 0.5, kept: at none is the detector better than chance."
    if deciding == 0:
        return "Threshold 0.5: no other decides these rows better."
    if deciding < MIN_FAILED_GROUPS:
        return (
            f"Threshold 0.5, kept: the best, {best:.4f}, decides differently in {deciding:.1f} effective groups, and "
            f"with fewer than {MIN_FAILED_GROUPS} a gain cannot be told from chance."
        )
    return f"Threshold 0.5, kept: the best, {best:.4f}, is not shown to gain: {gain}."


def _deciding_groups(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, best: float, prior: float | None
) -> float:
    """Effective number of groups in which 0.5 and the best threshold decide differently, rows weighted to the prior."""
    shares = at_prior(np.array([(labels == 0).sum(), 0, 0, (labels == 1).sum()]), prior)
    row_weights = np.where(labels == 1, shares[3] / (labels == 1).sum(), shares[0] / (labels == 0).sum())
    differs = decide(probabilities) != decide(probabilities, best)
    _, codes = np.unique(groups, return_inverse=True)
    return effective_groups(np.bincount(codes, row_weights * differs))
