"""Two answers to the same photos, held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit, logit

from roadwork.errors import DataError


@dataclass(frozen=True)
class Change:
    """A photo that was decided otherwise, with both calibrated probabilities of Roadwork."""

    photo: str
    expected: float
    found: float


@dataclass(frozen=True)
class Comparison:
    """What a comparison of N photos found.

    Attributes:
        what: who was held against whom.
        n: photos.
        threshold: at which both decide.
        tie: probabilities this near to the threshold may fall on either side.
        max_difference: of the probabilities.
        limit: that the difference must keep to; None: it is shown alone.
        changed: decisions that are not the same.
        ties: those that are not the same, but where both probabilities are within `tie` of the threshold.
    """

    what: str
    n: int
    threshold: float
    tie: float
    max_difference: float
    limit: float | None = None
    changed: list[Change] = field(default_factory=list)
    ties: list[Change] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        """Whether no decision changed but ties, and the probabilities kept to their limit."""
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
    """Holds calibrated probabilities (N,) that were found against those expected (N,); see `Comparison`.

    Raises:
        DataError: one of them is not a number.
    """
    for photo, *answers in zip(photos, expected, found, strict=True):
        if not np.isfinite(answers).all():
            raise DataError(f"{what}: the answer for {photo} is not a number. Export again.")
    differs = (expected >= threshold) != (found >= threshold)
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


def calibrated_from_score(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) calibrated probability behind a consumer's softmax scores (N,), which are shifted to be decided at 0.5."""
    # logit(0) and logit(1) are infinite, and expit gives 0 and 1 for them.
    probabilities: np.ndarray = expit(logit(scores.astype(np.float64)) + logit(threshold))
    return probabilities
