"""Weights by distance: half-open brackets [from, to) of kilometres."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from roadwork.errors import ConfigError

_KEY = "data.gps_sampling.weight_brackets"
_REMEDY = "Write brackets as [from_km, to_km, weight] that run from 0 to inf, each beginning where the last one ends"


@dataclass(frozen=True)
class Brackets:
    """B brackets that cover every distance once.

    Attributes:
        edges_km: (B + 1,) float64, ascending from 0 to inf; bracket b is [edges_km[b], edges_km[b + 1]).
        weights: (B,) float64, each >= 0, at least one above 0.
    """

    edges_km: np.ndarray
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def names(self) -> tuple[str, ...]:
        """What a person calls each bracket, such as ``50-200 km``."""
        pairs = pairwise(self.edges_km)
        return tuple(f"{low:g}+ km" if math.isinf(high) else f"{low:g}-{high:g} km" for low, high in pairs)

    def index_of(self, distances_km: np.ndarray) -> np.ndarray:
        """(N,) int64 bracket of each distance; B, one past the last, where the distance is NaN."""
        index = np.searchsorted(self.edges_km[1:-1], distances_km, side="right")
        index[np.isnan(distances_km)] = len(self)
        return index


def parse_brackets(brackets: Sequence[Sequence[Any]]) -> Brackets:
    """Brackets from rows of [from_km, to_km, weight], in any order; ``inf`` may be text, as YAML reads it.

    Raises:
        ConfigError: The rows leave a gap, overlap, do not run from 0 to inf, or have weights that cannot be drawn by.
    """
    rows = sorted(_read_row(bracket) for bracket in brackets)
    if not rows:
        raise ConfigError(f"{_KEY} is empty. {_REMEDY}.")
    if rows[0][0] != 0:
        raise ConfigError(f"{_KEY} begins with {_show(rows[0])}; the first bracket must begin at 0. {_REMEDY}.")
    for row, following in pairwise(rows):
        if row[1] != following[0]:
            problem = "leave a gap between" if row[1] < following[0] else "overlap:"
            raise ConfigError(f"{_KEY}: the brackets {problem} {_show(row)} and {_show(following)}. {_REMEDY}.")
    if not math.isinf(rows[-1][1]):
        raise ConfigError(f"{_KEY} ends with {_show(rows[-1])}; the last bracket must end at inf. {_REMEDY}.")
    weights = np.array([weight for _, _, weight in rows])
    if weights.sum() == 0:
        raise ConfigError(f"{_KEY}: all weights are 0, so nothing could be drawn. Give one bracket a weight above 0.")
    return Brackets(np.array([rows[0][0], *(high for _, high, _ in rows)]), weights)


def _read_row(bracket: Sequence[Any]) -> tuple[float, float, float]:
    try:
        low, high, weight = (float(value) for value in bracket)
    except (TypeError, ValueError):
        raise ConfigError(f"{_KEY} contains {bracket!r}, which is not three numbers. {_REMEDY}.") from None
    if not 0 <= low < high:
        raise ConfigError(f"{_KEY} contains {bracket!r}; its distances must be >= 0 and ascend. {_REMEDY}.")
    if not (weight >= 0 and math.isfinite(weight)):
        raise ConfigError(f"{_KEY} contains {bracket!r}; its weight must be a finite number >= 0.")
    return low, high, weight


def _show(row: tuple[float, float, float]) -> str:
    return "[{:g}, {:g}, {:g}]".format(*row)
