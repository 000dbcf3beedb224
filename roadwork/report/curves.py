"""Points of the curves that a report draws, from labels, probabilities and groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.calibration.cuts import Cuts
from roadwork.calibration.probabilities import ECE_BINS, equal_mass_bins
from roadwork.evaluation.intervals import Interval, error_rate_interval
from roadwork.evaluation.metrics import precision, recall

_MAX_POINTS = 300


@dataclass(frozen=True)
class RankingCurves:
    """ROC and precision-recall curves.

    Attributes:
        roc: (K, 2) false positive rate and recall, rising.
        precision_recall: (K, 2) recall and precision, recall rising; without the cut at which nothing is called.
    """

    roc: np.ndarray
    precision_recall: np.ndarray


def ranking_curves(labels: np.ndarray, probabilities: np.ndarray) -> RankingCurves:
    """Both curves at every cut that decides differently, thinned to some 300 points.

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) strictly between 0 and 1.
    """
    counts = Cuts(labels, probabilities).counts[::-1]  # from nothing called to all called
    roc = np.stack([counts[:, 1] / counts[:, :2].sum(axis=1), recall(counts)], axis=1)
    called = counts[1:]
    return RankingCurves(_thin(roc), _thin(np.stack([recall(called), precision(called)], axis=1)))


def _thin(points: np.ndarray) -> np.ndarray:
    chosen = np.linspace(0, len(points) - 1, min(_MAX_POINTS, len(points))).round().astype(np.int64)
    thinned: np.ndarray = points[chosen]
    return thinned


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        probability: mean of its rows.
        share: of Roadwork among them.
        interval: 95 % of that share, by group.
        n: rows.
        groups: that they are of.
    """

    probability: float
    share: float
    interval: Interval
    n: int
    groups: int


def reliability_bins(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, bins: int = ECE_BINS
) -> list[ReliabilityBin]:
    """Bins that hold equally many rows, in rising order of probability; equal probabilities share one.

    The interval is that of an error rate by group (`error_rate_interval`): a row of Roadwork stands for an error.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork.
        groups: (N,) names or numbers.
        bins: at most so many.
    """
    numbers = equal_mass_bins(probabilities, bins)
    found = []
    for number in np.unique(numbers):
        here = numbers == number
        _, codes = np.unique(groups[here], return_inverse=True)
        counts = np.bincount(4 * codes + labels[here], minlength=4 * (codes.max() + 1)).reshape(-1, 4)
        found.append(
            ReliabilityBin(
                probability=float(probabilities[here].mean()),
                share=float(labels[here].mean()),
                interval=error_rate_interval(counts),
                n=int(here.sum()),
                groups=len(counts),
            )
        )
    return found
