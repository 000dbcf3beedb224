"""Temperature scaling, kept only if it lowers the NLL of held-out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from roadwork.calibration.data import divide_as_far_as_possible
from roadwork.metrics.classification import score_probabilities
from roadwork.metrics.decision import probability

# Limits in units of the mean absolute margin, for rows whose NLL has no minimum.
_COLDEST, _HOTTEST = 0.01, 100.0


@dataclass(frozen=True)
class TemperatureFit:
    """A temperature, and the evidence for it.

    Attributes:
        temperature: To divide logits by; 1 where the fitted one was not kept.
        fitted: The one with the lowest NLL on the rows given.
        kept: Whether `temperature` is `fitted`.
        n_folds: Of the comparison; 0 where the rows cannot be divided.
        before: NLL, Brier score and ECE at T = 1.
        after: The same with each fold at the temperature that the other folds give; None without folds.
        sentence: All this for a reader.
    """

    temperature: float
    fitted: float
    kept: bool
    n_folds: int
    before: dict[str, float]
    after: dict[str, float] | None
    sentence: str


def choose_temperature(labels: np.ndarray, margins: np.ndarray, groups: np.ndarray, seed: int) -> TemperatureFit:
    """The fitted temperature where it lowers the out-of-fold NLL, else 1.

    Args:
        labels: (N,) 0 or 1, both present.
        margins: (N,) logit of Roadwork minus logit of None.
        groups: (N,) names or numbers; rows of one group share a fold.
        seed: of the folds.
    """
    fitted = fit_temperature(labels, margins)
    before = score_probabilities(labels, probability(margins))
    folds = divide_as_far_as_possible(labels, groups, seed)
    if folds is None:
        sentence = "Temperature 1, kept: too few groups have either label to try another out of fold."
        return TemperatureFit(1.0, fitted, kept=False, n_folds=0, before=before, after=None, sentence=sentence)
    probabilities = np.empty(len(labels))
    for fold in range(folds.max() + 1):
        held_out = folds == fold
        of_the_others = fit_temperature(labels[~held_out], margins[~held_out])
        probabilities[held_out] = probability(margins[held_out], of_the_others)
    after = score_probabilities(labels, probabilities)
    kept = after["nll"] < before["nll"] and _has_optimum(_signed(labels, margins))
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
        return f"Temperature {fitted:.3g}: out of fold it lowers the NLL from {before:.4f} to {after:.4f}."
    if after < before:
        return "Temperature 1, kept: the rows are all right, or no better than chance, so that no temperature is best."
    return (
        f"Temperature 1, kept: the fitted {fitted:.3g} does not help rows that it was not fitted on (NLL {before:.4f}, "
        f"and {after:.4f} out of fold)."
    )


def fit_temperature(labels: np.ndarray, margins: np.ndarray) -> float:
    """The temperature with the lowest NLL, by LBFGS on its logarithm in float64.

    Where none is best (all rows right: ever colder; no better than chance: ever hotter), an end of the range.

    Args:
        labels: (N,) 0 or 1.
        margins: (N,) logit of Roadwork minus logit of None.
    """
    signed = _signed(labels, margins)
    scale = float(np.abs(signed).mean())
    if scale == 0:
        return 1.0
    if not _has_optimum(signed):
        return scale * (_COLDEST if signed.mean() > 0 else _HOTTEST)
    scaled = torch.from_numpy(signed / scale)
    log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [log_temperature], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -F.logsigmoid(scaled * torch.exp(-log_temperature)).mean()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]  # likewise
    return scale * float(np.clip(log_temperature.exp().item(), _COLDEST, _HOTTEST))


def _signed(labels: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """(N,) logit of the right class less that of the wrong one."""
    signed: np.ndarray = np.where(labels == 1, margins, -margins).astype(np.float64)
    return signed


def _has_optimum(signed: np.ndarray) -> bool:
    """Whether one temperature is best: the NLL, convex in 1/T, then falls at 1/T = 0 and rises at last."""
    return bool(signed.min() < 0 < signed.mean())
