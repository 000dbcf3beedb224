"""Rows by dataset, bracket of distance and label: all that weights and summary need to know of them."""

from dataclasses import dataclass

import numpy as np

from roadwork.data.samplers.brackets import Brackets
from roadwork.data.samplers.mixture import Mixture
from roadwork.data.utils.geo import nearest_km

# Rows are measured this many at a time, so that 10^8 of them leave no temporary arrays of their own length.
_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True)
class DistanceClasses:
    """N rows of D datasets in B brackets and the bracket of rows without GPS, each divided by label.

    Each dataset has brackets of its own: there are C = D * (B + 1) of them, one dataset's after the other's.

    Attributes:
        index: (N,) small unsigned ints, 2 * bracket + label; the label counts as 0 where labels are unknown.
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
        """(D, B + 1) int64 number of rows of each dataset in each bracket."""
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
) -> tuple[np.ndarray, DistanceClasses]:
    """Distances to the nearest centre, (N,) float64 kilometres with NaN where GPS is missing, and the rows' classes.

    Args:
        gps: (N, 2) latitude, longitude in degrees.
        labels: (N,) 0 or 1, or None where they are unknown.
        centers_deg: (K, 2) latitude, longitude in degrees.
        brackets: of distance.
        mixture: the rows' datasets; None for one.
    """
    n_datasets = len(mixture) if mixture else 1
    n_classes = 2 * (len(brackets) + 1) * n_datasets
    distances_km = np.empty(len(gps))
    index = np.empty(len(gps), dtype=np.min_scalar_type(n_classes - 1))
    sizes, km = np.zeros(n_classes, dtype=np.int64), np.zeros(n_classes)
    for start in range(0, len(gps), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        distances_km[rows], _ = nearest_km(gps[rows], centers_deg)
        classes = 2 * brackets.index_of(distances_km[rows])
        if mixture is not None:
            classes += 2 * (len(brackets) + 1) * mixture.index[rows]
        if labels is not None:
            classes += labels[rows].astype(np.int64)
        index[rows] = classes
        sizes += np.bincount(classes, minlength=n_classes)
        km += np.bincount(classes, np.nan_to_num(distances_km[rows]), n_classes)
    return distances_km, DistanceClasses(index, sizes.reshape(-1, 2), km.reshape(-1, 2), n_datasets)


def class_weights(sizes: np.ndarray, bracket_weights: np.ndarray, *, balance_labels: bool) -> np.ndarray:
    """(C, 2) weight of each row of a class.

    Balanced, the rows of a bracket keep their total weight, but the label 1 has the share of it that it has of all
    rows; so the weighting does not shift the prior. A bracket whose rows have one label only stays as it is.

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
