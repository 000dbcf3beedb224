"""The same detector where Roadwork is rarer or more frequent than in the sample."""

from __future__ import annotations

import numpy as np

from roadwork.errors import ConfigError

SAMPLE, BALANCED = "sample", "balanced"


def parse_prior(text: str) -> float | None:
    """The share of Roadwork that a user names: a number, `balanced` (0.5), or `sample`, which is None.

    Raises:
        ConfigError: it is none of them, or not between 0 and 1.
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
    """Confusion counts (..., 4) as shares of a population with this share of Roadwork; None: of the sample's own.

    The rates at which each class is decided rightly stay what they are. All 0 where a class has no row.
    """
    counts = np.asarray(counts, dtype=np.float64)
    none, roadwork = counts[..., :2].sum(axis=-1), counts[..., 2:].sum(axis=-1)
    if prior is None:
        of_none, of_roadwork = none / (none + roadwork), roadwork / (none + roadwork)
    else:
        of_none, of_roadwork = np.full(none.shape, 1 - prior), np.full(none.shape, prior)
    both = (none > 0) & (roadwork > 0)
    per_none = np.divide(of_none, none, out=np.zeros(none.shape), where=both)
    per_roadwork = np.divide(of_roadwork, roadwork, out=np.zeros(none.shape), where=both)
    weights = np.stack([per_none, per_none, per_roadwork, per_roadwork], axis=-1)
    shares: np.ndarray = counts * weights
    return shares
