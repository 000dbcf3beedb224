"""Row weights by distance bracket, dataset and label."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.utils.geo import nearest_km

_KEY = "data.gps_sampling.weight_brackets"
_REMEDY = "Write brackets as [from_km, to_km, weight] that run from 0 to inf, each starting where the last one ends"

# Rows are measured in chunks, so that 10^8 of them need no temporary arrays of their length.
_CHUNK_ROWS = 1 << 20


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
        """Name of each bracket, such as ``50-200 km``."""
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
        ConfigError: the rows leave a gap, overlap, do not run from 0 to inf, or have unusable weights.
    """
    rows = sorted(_read_row(bracket) for bracket in brackets)
    if not rows:
        raise ConfigError(f"{_KEY} is empty. {_REMEDY}.")
    if rows[0][0] != 0:
        raise ConfigError(f"{_KEY} starts with {_show(rows[0])}; the first bracket must start at 0. {_REMEDY}.")
    for row, following in pairwise(rows):
        if row[1] != following[0]:
            problem = "leave a gap between" if row[1] < following[0] else "overlap:"
            raise ConfigError(f"{_KEY}: the brackets {problem} {_show(row)} and {_show(following)}. {_REMEDY}.")
    if not math.isinf(rows[-1][1]):
        raise ConfigError(f"{_KEY} ends with {_show(rows[-1])}; the last bracket must end at inf. {_REMEDY}.")
    weights = np.array([weight for _, _, weight in rows])
    if weights.sum() == 0:
        raise ConfigError(f"{_KEY}: all weights are 0, so nothing could be drawn. Set one weight above 0.")
    return Brackets(np.array([rows[0][0], *(high for _, high, _ in rows)]), weights)


def nothing_to_draw(problem: str) -> DataError:
    """The error if no training row has a weight above 0; ``problem`` is its first sentence."""
    return DataError(f"{problem} Set a weight above 0 in {_KEY} or in data.gps_sampling.missing_weight.")


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


@dataclass(frozen=True)
class Mixture:
    """N rows of D datasets, the main one first.

    Attributes:
        names: (D,) of the datasets.
        index: (N,) int64, the dataset of each row.
        shares: (D,) share of all draws, or None if the dataset's rows are drawn by their weights; their sum is below 1.
        weights: (D,) factor of its rows' weights; 1 if it has a share.
    """

    names: tuple[str, ...]
    index: np.ndarray
    shares: tuple[float | None, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.names)

    def factors(self, totals: np.ndarray) -> np.ndarray:
        """(D,) factors of the datasets' row weights that produce the shares.

        Weights keep their ratios inside a dataset, and among the datasets without a share.

        Args:
            totals: (D,) sum of the weights of each dataset's rows.

        Raises:
            DataError: a dataset with a share, or all others together, have no row to draw.
        """
        factors = np.array(self.weights, dtype=np.float64)
        is_shared = np.array([share is not None for share in self.shares])
        rest = float((factors * totals)[~is_shared].sum())
        if rest == 0:
            raise nothing_to_draw(
                "No training row outside the datasets with a `share` can be drawn: there is none, or all have weight 0."
            )
        left = 1 - sum(share for share in self.shares if share is not None)
        for number, share in enumerate(self.shares):
            if share is None:
                continue
            if share > 0 and totals[number] == 0:
                raise DataError(
                    f"{share:.0%} of the training draws should come from {self.names[number]}, but none of its rows in "
                    "train can be drawn: all are set aside, in other splits, or have weight 0. Set its `share` to "
                    "null, its `splits` to train, or data.gps_sampling.missing_weight above 0."
                )
            factors[number] = share * rest / (left * totals[number]) if share > 0 else 0.0
        return factors


@dataclass(frozen=True)
class DistanceStrata:
    """Strata of N rows, by dataset, distance bracket and label.

    Each of D datasets has B brackets and one for rows without GPS: C = D * (B + 1) brackets, dataset after dataset.

    Attributes:
        index: (N,) small unsigned ints, 2 * bracket + label, with label 0 if labels are unknown.
        sizes: (C, 2) int64 number of rows.
        km: (C, 2) float64 sum of the rows' distances in kilometres; 0 for rows without GPS.
        n_datasets: D.
    """

    index: np.ndarray
    sizes: np.ndarray
    km: np.ndarray
    n_datasets: int = 1

    @property
    def by_dataset(self) -> np.ndarray:
        """(D, B + 1) int64 number of rows of each dataset in each bracket, the last without GPS."""
        rows: np.ndarray = self.sizes.sum(axis=1).reshape(self.n_datasets, -1)
        return rows

    @property
    def has_gps(self) -> np.ndarray:
        """(C,) bool, False for the brackets of rows without GPS."""
        n_brackets = len(self.sizes) // self.n_datasets
        known: np.ndarray = np.arange(len(self.sizes)) % n_brackets < n_brackets - 1
        return known


def measure_rows(
    gps: np.ndarray,
    labels: np.ndarray | None,
    centers_deg: np.ndarray,
    brackets: Brackets,
    mixture: Mixture | None = None,
) -> tuple[np.ndarray, DistanceStrata]:
    """Distances to the nearest centre, (N,) float64 km with NaN where GPS is missing, and the strata of the rows.

    Args:
        gps: (N, 2) latitude, longitude in degrees.
        labels: (N,) 0 or 1; None if unknown.
        centers_deg: (K, 2) latitude, longitude in degrees.
        brackets: the distance brackets.
        mixture: the dataset of each row; None for a single dataset.
    """
    n_datasets = len(mixture) if mixture else 1
    n_strata = 2 * (len(brackets) + 1) * n_datasets
    distances_km = np.empty(len(gps))
    index = np.empty(len(gps), dtype=np.min_scalar_type(n_strata - 1))
    sizes, km = np.zeros(n_strata, dtype=np.int64), np.zeros(n_strata)
    for start in range(0, len(gps), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        distances_km[rows], _ = nearest_km(gps[rows], centers_deg)
        strata = 2 * brackets.index_of(distances_km[rows])
        if mixture is not None:
            strata += 2 * (len(brackets) + 1) * mixture.index[rows]
        if labels is not None:
            strata += labels[rows].astype(np.int64)
        index[rows] = strata
        sizes += np.bincount(strata, minlength=n_strata)
        km += np.bincount(strata, np.nan_to_num(distances_km[rows]), n_strata)
    return distances_km, DistanceStrata(index, sizes.reshape(-1, 2), km.reshape(-1, 2), n_datasets)


def stratum_weights(sizes: np.ndarray, bracket_weights: np.ndarray, *, balance_labels: bool) -> np.ndarray:
    """(C, 2) weight of each row of a stratum.

    Balancing keeps the total weight of a bracket and gives label 1 the share of it that label 1 has of all rows, so the
    weighting does not shift the prior. A bracket whose rows all have one label does not change.

    Args:
        sizes: (C, 2) number of rows by bracket and label.
        bracket_weights: (C,) weight of a row by its bracket alone.
        balance_labels: whether to balance.
    """
    weights = np.repeat(bracket_weights[:, None], 2, axis=1)
    mixed = (sizes > 0).all(axis=1)
    if balance_labels and mixed.any():
        prior = sizes.sum(axis=0) / sizes.sum()
        weights[mixed] *= prior * sizes[mixed].sum(axis=1, keepdims=True) / sizes[mixed]
    return weights
