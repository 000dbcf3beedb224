"""Compares the outputs of two networks on the same photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from roadwork.core.errors import DataError, WiringError
from roadwork.metrics.decision import decide

LOGIT_LIMIT = 1e-4
PROBABILITY_LIMIT = 1e-4

# Rounding may change decisions closer to the threshold than this.
TIE = 1e-5

# Images per batch; large networks need much memory per image.
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """A comparison that passed.

    Attributes:
        what: what was compared.
        difference: the largest difference.
        limit: the allowed difference.
    """

    what: str
    difference: float
    limit: float


def network_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """(B, 2) float64 logits of a network for its inputs (B, 3, S, S)."""
    with torch.inference_mode():
        parts = (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))
        return torch.cat([network(pixel_values=part).logits for part in parts]).double()


def compare_logits(what: str, logits: Tensor, expected: Tensor, temperature: float = 1.0) -> Parity:
    """Compares logits (B, 2) with the expected ones.

    Differences are relative to the largest of 1, 1 / temperature and the logit, because float32 has seven digits, and
    folding a temperature below 1 magnifies rounding errors.

    Args:
        what: name of the comparison.
        logits: logits of a network.
        expected: logits of another network, or of a formula.
        temperature: temperature folded into both.

    Raises:
        WiringError: the logits differ by more than rounding.
    """
    difference = float(((logits - expected).abs() / expected.abs().clamp(min=max(1.0, 1 / temperature))).max())
    if not difference < LOGIT_LIMIT:  # also for NaN
        raise WiringError(
            f"{what}: logits differ by up to {difference:.1e}; allowed: below {LOGIT_LIMIT:.0e}. Nothing was exported. "
            "Report this bug with the model, the adapter and the versions in the run's manifest.json."
        )
    return Parity(what, difference, LOGIT_LIMIT)


def compare_probabilities(what: str, probabilities: np.ndarray, expected: np.ndarray, threshold: float) -> Parity:
    """Compares calibrated probabilities (N,) and their decisions with those of the run.

    Raises:
        WiringError: a probability differs, or a decision that is not a tie changed.
    """
    difference = float(np.abs(probabilities - expected).max())
    changed = decide(probabilities, threshold) != decide(expected, threshold)
    changed &= np.abs(expected - threshold) > TIE
    if not difference < PROBABILITY_LIMIT or changed.any():
        raise WiringError(
            f"{what}: probabilities differ by up to {difference:.1e} (allowed: below {PROBABILITY_LIMIT:.0e}), and "
            f"{int(changed.sum())} of {len(expected)} decisions changed (allowed: none). Nothing was exported. "
            "Report this bug with the model, the adapter and the versions in the run's manifest.json."
        )
    return Parity(what, difference, PROBABILITY_LIMIT)


@dataclass(frozen=True)
class Change:
    """A photo whose decision changed, with both calibrated probabilities of Roadwork."""

    photo: str
    expected: float
    found: float


@dataclass(frozen=True)
class Comparison:
    """The result of comparing N photos.

    Attributes:
        what: what was compared.
        n: number of photos.
        threshold: decision threshold of both.
        tie: probabilities this close to the threshold may give either decision.
        max_difference: largest difference of the probabilities.
        limit: the allowed difference; None allows any.
        max_logit_difference: largest difference of the logits of Roadwork minus None, after folding; None if not known.
        changed: photos whose decision differs.
        ties: photos whose decision differs, with both probabilities within `tie` of the threshold.
    """

    what: str
    n: int
    threshold: float
    tie: float
    max_difference: float
    limit: float | None = None
    max_logit_difference: float | None = None
    changed: list[Change] = field(default_factory=list)
    ties: list[Change] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether only ties changed, and the probabilities are within the limit."""
        return not self.changed and (self.limit is None or self.max_difference <= self.limit)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"is_right": self.is_right}


def compare(
    what: str,
    photos: Sequence[str],
    expected: np.ndarray,
    found: np.ndarray,
    *,
    threshold: float,
    tie: float,
    limit: float | None = None,
) -> Comparison:
    """Compares calibrated probabilities (N,) with the expected ones (N,); see `Comparison` for the arguments.

    Raises:
        DataError: a probability is NaN.
    """
    for photo, *values in zip(photos, expected, found, strict=True):
        if not np.isfinite(values).all():
            raise DataError(f"{what}: the probability of {photo} is not a number. Export again.")
    differs = decide(expected, threshold) != decide(found, threshold)
    is_tie = np.maximum(np.abs(expected - threshold), np.abs(found - threshold)) <= tie
    rows = [
        Change(photo, float(expected[row]), float(found[row])) if differs[row] else None
        for row, photo in enumerate(photos)
    ]
    return Comparison(
        what=what,
        n=len(photos),
        threshold=threshold,
        tie=tie,
        max_difference=float(np.abs(expected - found).max()),
        limit=limit,
        changed=[row for row, tied in zip(rows, is_tie, strict=True) if row and not tied],
        ties=[row for row, tied in zip(rows, is_tie, strict=True) if row and tied],
    )
