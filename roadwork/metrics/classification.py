"""Metrics of a two-class detector; Roadwork is the positive class.

Decision metrics take confusion counts (..., 4) in the order tn, fp, fn, tp, so that one call scores one set or all
draws of a bootstrap. Shares work as well as counts, because each metric is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from roadwork.metrics.decision import DEFAULT_THRESHOLD, decide

ECE_BINS = 15


def count_confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """(4,) int64 counts tn, fp, fn, tp from labels (N,) and probabilities (N,)."""
    return np.bincount(2 * labels + decide(probabilities, threshold), minlength=4)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of correct decisions."""
    tn, _, _, tp = _unpack(counts)
    return _divide(tn + tp, counts.sum(axis=-1))


def precision(counts: np.ndarray) -> np.ndarray:
    """Share of correct decisions among those for Roadwork; NaN without such a decision."""
    _, fp, _, tp = _unpack(counts)
    return _divide(tp, tp + fp)


def recall(counts: np.ndarray) -> np.ndarray:
    """Share of correct decisions among the Roadwork rows; NaN without such a row."""
    _, _, fn, tp = _unpack(counts)
    return _divide(tp, tp + fn)


def f1(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall; NaN if neither labels nor decisions have Roadwork."""
    _, fp, fn, tp = _unpack(counts)
    return _divide(2 * tp, 2 * tp + fp + fn)


def mcc(counts: np.ndarray) -> np.ndarray:
    """Matthews correlation of labels and decisions; 0 if either is constant, as in scikit-learn."""
    tn, fp, fn, tp = _unpack(counts)
    spread = np.sqrt(((tp + fp) * (tn + fn)) * ((tp + fn) * (tn + fp)))
    # Rounding errors can exceed 1.
    bounded: np.ndarray = np.clip(np.nan_to_num(_divide(tp * tn - fp * fn, spread)), -1.0, 1.0)
    return bounded


def false_alarm_rate(counts: np.ndarray) -> np.ndarray:
    """Share of the None rows that were called Roadwork; NaN without such a row."""
    tn, fp, _, _ = _unpack(counts)
    return _divide(fp, tn + fp)


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean of the shares of both classes that were decided rightly; NaN with one class only."""
    mean: np.ndarray = (recall(counts) + 1 - false_alarm_rate(counts)) / 2
    return mean


CountMetric = Callable[[np.ndarray], np.ndarray]
COUNT_METRICS: dict[str, CountMetric] = {
    "mcc": mcc,
    "accuracy": accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
}
# Those of a judgement by class, such as on another dataset.
CLASS_METRICS = COUNT_METRICS | {"false_alarm_rate": false_alarm_rate, "balanced_accuracy": balanced_accuracy}


RANKING_METRICS = ("auroc", "auprc")


class Ranking:
    """Rows in descending order of probability, sorted once, so that each weighting takes one pass.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork; equal probabilities are one step of the curve.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self._order = np.argsort(-probabilities, kind="stable")
        self._positive = labels[self._order].astype(np.float64)
        self._step_ends = np.append(np.flatnonzero(np.diff(probabilities[self._order])), len(labels) - 1)

    def score(self, weights: np.ndarray) -> tuple[float, float]:
        """AUROC and AUPRC with row weights (N,); both NaN if only one class has weight.

        AUROC uses the trapezoidal rule, and AUPRC is the average precision, as in scikit-learn.
        """
        ordered = weights[self._order]
        found = np.cumsum(ordered * self._positive)[self._step_ends]
        called = np.cumsum(ordered)[self._step_ends]
        false = called - found
        if found[-1] == 0 or false[-1] == 0:
            return float("nan"), float("nan")
        auroc = np.trapezoid(np.append(0, found), np.append(0, false)) / (found[-1] * false[-1])
        auprc = np.sum(np.diff(found, prepend=0) * _divide(found, called), where=called > 0) / found[-1]
        return float(auroc), float(auprc)


def score_all(
    labels: np.ndarray,
    probabilities: np.ndarray,
    threshold: float = DEFAULT_THRESHOLD,
    metrics: Mapping[str, CountMetric] = COUNT_METRICS,
) -> dict[str, float]:
    """All metrics of labels (N,) and probabilities (N,) by name; NaN if undefined."""
    counts = count_confusion(labels, probabilities, threshold)
    figures = {name: float(metric(counts)) for name, metric in metrics.items()}
    ranking = Ranking(labels, probabilities).score(np.ones(len(labels)))
    return figures | dict(zip(RANKING_METRICS, ranking, strict=True))


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """NLL, Brier score and ECE by name, from labels (N,) and probabilities (N,) strictly between 0 and 1."""
    p_label = np.where(labels == 1, probabilities, 1 - probabilities)
    return {
        "nll": float(-np.log(p_label).mean()),
        "brier": float(((probabilities - labels) ** 2).mean()),
        "ece": expected_calibration_error(labels, probabilities),
    }


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean absolute difference between the share of Roadwork and the mean probability, over bins of equal size.

    Equal probabilities share a bin, so the order of rows does not matter. Nixon et al., Measuring calibration in deep
    learning, CVPR workshops 2019, explain why bins of equal mass are better.
    """
    numbers = equal_mass_bins(probabilities, bins)
    sums = np.bincount(numbers, weights=labels - probabilities, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def equal_mass_bins(probabilities: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """(N,) int64 bin, from 0, of each probability (N,); bins have equal sizes as far as ties allow."""
    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1))[1:-1]
    return np.searchsorted(edges, probabilities, side="right")


def _unpack(counts: np.ndarray) -> np.ndarray:
    # Floats, because products of four counts overflow int64 above about 50,000 rows.
    return np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def confusion_from(predictions: Tensor, labels: Tensor) -> Tensor:
    """The 2x2 confusion matrix of a batch: rows are labels, columns are predictions, as in scikit-learn.

    Args:
        predictions: (B,) integers, 0 or 1.
        labels: (B,) integers, 0 or 1, on the same device.

    Returns:
        (2, 2) int64 on that device. A row with any other value is not counted, so the sum is then below B.
    """
    # bincount would make the host wait for the largest value on a GPU.
    classes = torch.arange(2, device=labels.device)
    is_label = labels[:, None] == classes
    is_predicted = predictions[:, None] == classes
    return (is_label[:, :, None] & is_predicted[:, None, :]).sum(dim=0)


def mcc_from_confusion(counts: Tensor) -> float:
    """Matthews correlation, -1 to 1, of 2x2 counts; 0 if labels or predictions have a single class.

    Args:
        counts: (2, 2) integers, rows labels and columns predictions, on any device.
    """
    return float(mcc(counts.flatten().cpu().numpy()))
