"""Temperature scaling, kept only if it lowers the NLL of held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from roadwork.calibration.data import divide_as_far_as_possible
from roadwork.metrics.classification import score_probabilities
from roadwork.metrics.decision import probability

# Limits in units of the mean absolute margin, for rows whose NLL has no minimum.
_COLDEST, _HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and the evidence for it.

    Attributes:
        temperature: The divisor of the logits; 1 if the fitted temperature does not generalise.
        fitted: The temperature with the lowest NLL on the given rows.
        kept: Whether `temperature` is `fitted`.
        n_folds: Number of cross-validation folds; 0 if the rows cannot be divided.
        before: NLL, Brier score and ECE at T = 1.
        after: The same out of fold: each fold with the temperature fitted on the others. None without folds.
        sentence: A summary for people.
    """

    temperature: float
    fitted: float
    kept: bool
    n_folds: int
    before: dict[str, float]
    after: dict[str, float] | None
    sentence: str


def choose_temperature(labels: np.ndarray, margins: np.ndarray, groups: np.ndarray, seed: int) -> TemperatureFit:
    """The fitted temperature if it lowers the out-of-fold NLL, else 1.

    Args:
        labels: (N,) 0 or 1, both present.
        margins: (N,) logit of Roadwork minus logit of None.
        groups: (N,) names or numbers; rows of one group share a fold.
        seed: seed of the folds.
    """
    fitted = fit_temperature(labels, margins)
    before = score_probabilities(labels, probability(margins))
    folds = divide_as_far_as_possible(labels, groups, seed)
    if folds is None:
        sentence = "Temperature 1 (unchanged): too few groups per label for cross-validation."
        return TemperatureFit(1.0, fitted, kept=False, n_folds=0, before=before, after=None, sentence=sentence)
    probabilities = np.empty(len(labels))
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        fitted_on_others = fit_temperature(labels[~held_out], margins[~held_out])
        probabilities[held_out] = probability(margins[held_out], fitted_on_others)
    after = score_probabilities(labels, probabilities)
    kept = after["nll"] < before["nll"] and has_optimum(labels, margins)
    return TemperatureFit(
        temperature=fitted if kept else 1.0,
        fitted=fitted,
        kept=kept,
        n_folds=int(folds.max()) + 1,
        before=before,
        after=after,
        sentence=_explain(fitted, before["nll"], after["nll"], kept=kept),
    )


def _explain(fitted: float, before: float, after: float, *, kept: bool) -> str:
    if kept:
        return f"Temperature {fitted:.3g}: it lowers the out-of-fold NLL from {before:.4f} to {after:.4f}."
    if after < before:
        return "Temperature 1 (unchanged): all decisions are correct, or none beats chance, so the NLL has no minimum."
    return (
        f"Temperature 1 (unchanged): the fitted {fitted:.3g} does not lower the out-of-fold NLL "
        f"({before:.4f} before, {after:.4f} after)."
    )


def fit_temperature(labels: np.ndarray, margins: np.ndarray) -> float:
    """The temperature with the lowest NLL: the root of its slope in 1/T, in which the NLL is convex.

    If the NLL has no minimum, the result is a limit of the range: the lower one if all decisions are correct, the upper
    one if they are no better than chance.

    Args:
        labels: (N,) 0 or 1.
        margins: (N,) logit of Roadwork minus logit of None.
    """
    signed = _signed(labels, margins)
    scale = float(np.abs(signed).mean())
    if scale == 0:
        return 1.0
    scaled = signed / scale

    def slope(inverse: float) -> float:
        return -float((scaled * expit(-inverse * scaled)).mean())

    if slope(1 / _COLDEST) <= 0:
        return scale * _COLDEST
    if slope(1 / _HOTTEST) >= 0:
        return scale * _HOTTEST
    return scale / float(brentq(slope, 1 / _HOTTEST, 1 / _COLDEST))


def _signed(labels: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(N,) logit of the correct class minus logit of the wrong one."""
    signed: np.ndarray = np.where(labels == 1, margins, -margins).astype(np.float64)
    return signed


def has_optimum(labels: np.ndarray, margins: np.ndarray) -> bool:
    """Whether the NLL has a minimum: it is convex in 1/T, falls at 1/T = 0 and finally rises."""
    signed = _signed(labels, margins)
    return bool(signed.min() < 0 < signed.mean())
