"""Metrics of a two-class detector; Roadwork is the positive class.

Metrics of a decision take confusion counts (..., 4) in the order tn, fp, fn, tp, so that one call scores one set,
or every draw of a bootstrap. Shares work as well as counts: each metric is a ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from roadwork.metrics.decision import DEFAULT_THRESHOLD, decide

ECE_BINS = 15


def count_confusion(labels: np.ndarray, probabilities: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """(4,) int64 counts tn, fp, fn, tp of labels (N,) and probabilities (N,)."""
    return np.bincount(2 * labels + decide(probabilities, threshold), minlength=4)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of rows decided rightly."""
    tn, _, _, tp = _unpack(counts)
    return _divide(tn + tp, counts.sum(axis=-1))


def precision(counts: np.ndarray) -> np.ndarray:
    """Share of the rows called Roadwork that are; NaN where no row was."""
    _, fp, _, tp = _unpack(counts)
    return _divide(tp, tp + fp)


def recall(counts: np.ndarray) -> np.ndarray:
    """Share of the Roadwork rows that were found; NaN without such a row."""
    _, _, fn, tp = _unpack(counts)
    return _divide(tp, tp + fn)


def f1(counts: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall; NaN without labels and decisions of Roadwork."""
    _, fp, fn, tp = _unpack(counts)
    return _divide(2 * tp, 2 * tp + fp + fn)


def mcc(counts: np.ndarray) -> np.ndarray:
    """Matthews correlation of labels and decisions; 0 where either is constant, as scikit-learn has it."""
    tn, fp, fn, tp = _unpack(counts)
    spread = np.sqrt(((tp + fp) * (tn + fn)) * ((tp + fn) * (tn + fp)))
    # A ratio a rounding error above 1 would end up in a report.
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
    """Rows in order of falling probability, sorted once so that each weighting of them is scored in one pass.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork; equal ones are one step of the curve.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self._order = np.argsort(-probabilities, kind="stable")
        self._positive = labels[self._order].astype(np.float64)
        self._step_ends = np.append(np.flatnonzero(np.diff(probabilities[self._order])), len(labels) - 1)

    def score(self, weights: np.ndarray) -> tuple[float, float]:
        """AUROC and AUPRC with rows weighted (N,); NaN both where only one class has weight.

        AUROC is the trapezoid rule, AUPRC the average precision, as in scikit-learn.
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
    """Every metric of labels (N,) and probabilities (N,) by name; NaN where one is undefined."""
    counts = count_confusion(labels, probabilities, threshold)
    figures = {name: float(metric(counts)) for name, metric in metrics.items()}
    ranking = Ranking(labels, probabilities).score(np.ones(len(labels)))
    return figures | dict(zip(RANKING_METRICS, ranking, strict=True))


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """NLL, Brier score and ECE by name, of labels (N,) and probabilities (N,) strictly between 0 and 1."""
    p_label = np.where(labels == 1, probabilities, 1 - probabilities)
    return {
        "nll": float(-np.log(p_label).mean()),
        "brier": float(((probabilities - labels) ** 2).mean()),
        "ece": expected_calibration_error(labels, probabilities),
    }


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance of the share of Roadwork from the mean probability, over bins that hold equally many rows.

    Equal probabilities share a bin, so that the order of rows does not matter. (Nixon et al., Measuring calibration in
    deep learning, CVPR workshops 2019, on why bins of equal mass.)
    """
    numbers = equal_mass_bins(probabilities, bins)
    sums = np.bincount(numbers, weights=labels - probabilities, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def equal_mass_bins(probabilities: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """(N,) int64 bin, from 0, of each probability (N,): as many rows in each, as far as equal ones allow."""
    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1))[1:-1]
    return np.searchsorted(edges, probabilities, side="right")


def _unpack(counts: np.ndarray) -> np.ndarray:
    # Floats: products of four counts overflow int64 from some 50,000 rows.
    return np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    quotient = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def confusion_from(predictions: Tensor, labels: Tensor) -> Tensor:
    """The 2x2 counts of a batch, rows labels and columns predictions as in scikit-learn.

    Args:
        predictions: (B,) integers, 0 or 1.
        labels: (B,) integers, 0 or 1, on the same device.

    Returns:
        (2, 2) int64 on that device. A row with any other value is in no cell: the sum then falls short of B.
    """
    # Not bincount: on a GPU it makes the host wait for the largest value.
    classes = torch.arange(2, device=labels.device)
    is_label = labels[:, None] == classes
    is_predicted = predictions[:, None] == classes
    return (is_label[:, :, None] & is_predicted[:, None, :]).sum(dim=0)


def mcc_from_confusion(counts: Tensor) -> float:
    """Matthews correlation, -1 to 1, of 2x2 counts; 0 where labels or predictions are of a single class.

    Args:
        counts: (2, 2) integers, rows labels and columns predictions, on any device.
    """
    return float(mcc(counts.flatten().cpu().numpy()))
