"""Many short ranges of unequal length as flat arrays, in batches that fit memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from roadwork.data.utils.geo import EARTH_RADIUS_KM, unit_vectors

_MIN_RADIUS_KM = 1e-5  # the grid's cells are numbered in 31 bits an axis
_ROUNDING_KM = 1e-9
_BATCH = 1 << 21  # distances held in memory at once

# Two points within the radius lie at most two cells apart along an axis, since it is sqrt(3) cells long. One of each
# two opposite directions is enough.
_REACH = 2
_COLUMNS = [(0, 0), *((dx, dy) for dx in range(_REACH + 1) for dy in range(-_REACH, _REACH + 1) if (dx, dy) > (0, 0))]


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts[i]` whole numbers from `starts[i]` on, for each i in turn."""
    ends = np.cumsum(counts)
    numbers: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return numbers


def batches(counts: np.ndarray, limit: int) -> Iterator[slice]:
    """Slices that together hold every item, of about `limit` counts; an item above the limit begins its own."""
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // limit)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        if stop > start:
            yield slice(int(start), int(stop))


def chord_length(radius_km: float) -> float:
    """The straight line through the unit sphere below which two points are closer than the radius.

    It includes a micrometre of rounding, so that whoever measures by another formula finds no pair left apart.
    """
    return float(2 * np.sin(min((radius_km + _ROUNDING_KM) / EARTH_RADIUS_KM, np.pi) / 2))


def component_labels(n_nodes: int, pairs: np.ndarray) -> np.ndarray:
    """(n_nodes,) int64 numbers of the connected components that (P, 2) pairs of nodes make."""
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_nodes, n_nodes))
    components: np.ndarray = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def components_within(gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(N,) int64 component of each point, where points whose great-circle distance is below the radius are joined.

    The sphere is that of `haversine_km`. Time and memory grow with the points, not with their pairs. The numbers have
    no meaning but to be equal or not.

    Args:
        gps: (N, 2) latitude, longitude in degrees; a row with a NaN is a component of its own.
        radius_km: 0 joins nothing; a positive one counts as at least 1 cm.
    """
    components = np.arange(len(gps), dtype=np.int64)
    known = np.flatnonzero(~np.isnan(gps).any(axis=1))
    if radius_km <= 0 or len(known) < 2:
        return components
    # Many rows at one place are one point, so that no tree meets a heap that it cannot divide.
    places, place_of_row = np.unique(gps[known, 0] + 1j * gps[known, 1], return_inverse=True)
    vectors = unit_vectors(np.stack([places.real, places.imag], axis=1))
    components[known] = len(gps) + _components_of_vectors(vectors, max(radius_km, _MIN_RADIUS_KM))[place_of_row]
    return components


def _components_of_vectors(vectors: np.ndarray, radius_km: float) -> np.ndarray:
    cells = _Cells(vectors, side=chord_length(radius_km - _ROUNDING_KM) / np.sqrt(3))
    chord = chord_length(radius_km)
    sure, open_ = [], []
    for pairs in _neighbours(cells.grid):
        gap, span = cells.bounds(pairs)
        sure.append(pairs[span < chord])
        open_.append(pairs[(gap < chord) & (span >= chord)])
    components = component_labels(len(cells.grid), np.concatenate(sure))
    for members in (cells.outermost(), cells.members):
        components = _join(components, np.concatenate(open_), members, chord)
    of_vector = np.empty(len(vectors), dtype=np.int64)
    of_vector[cells.order] = np.repeat(components, cells.members.counts)
    return of_vector


class _Members(NamedTuple):
    """Points sorted by cell: `counts[c]` of them from `starts[c]` on lie in cell c."""

    vectors: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


class _Cells:
    """The occupied cells of a cubic grid over the unit sphere, sorted by their place in it."""

    def __init__(self, vectors: np.ndarray, side: float) -> None:
        grid = np.floor((vectors + 1) / side).astype(np.int64)
        self.order = np.lexsort(grid.T[::-1])
        grid = grid[self.order]
        starts = np.flatnonzero(np.r_[True, (grid[1:] != grid[:-1]).any(axis=1)])
        self.grid = grid[starts]
        self.members = _Members(vectors[self.order], starts, np.diff(np.r_[starts, len(grid)]))
        self.low = np.minimum.reduceat(self.members.vectors, starts)
        self.high = np.maximum.reduceat(self.members.vectors, starts)

    def bounds(self, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The least and the greatest distance (P,) of points in two cells that their bounding boxes allow."""
        a, b = pairs.T
        gap = np.maximum(self.low[b] - self.high[a], self.low[a] - self.high[b]).clip(min=0)
        span = np.maximum(self.high[b] - self.low[a], self.high[a] - self.low[b])
        return np.linalg.norm(gap, axis=1), np.linalg.norm(span, axis=1)

    def outermost(self) -> _Members:
        """Of each cell the points that touch its bounding box."""
        vectors, starts, counts = self.members
        low, high = np.repeat(self.low, counts, axis=0), np.repeat(self.high, counts, axis=0)
        is_outer = ((vectors == low) | (vectors == high)).any(axis=1)
        n_outer = np.add.reduceat(is_outer, starts, dtype=np.int64)
        return _Members(vectors[is_outer], np.cumsum(n_outer) - n_outer, n_outer)


def _neighbours(grid: np.ndarray) -> Iterator[np.ndarray]:
    """(P, 2) index pairs of cells within reach of each other, each pair once, from cells sorted by x, y, z."""
    height, depth = grid[:, 1:].max(axis=0) + 2 * _REACH + 1
    columns, column_of_cell = np.unique(grid[:, 0] * height + grid[:, 1], return_inverse=True)
    z = grid[:, 2] + _REACH
    keys = column_of_cell * depth + z
    for dx, dy in _COLUMNS:
        wanted = columns + dx * height + dy
        found = np.searchsorted(columns, wanted).clip(max=len(columns) - 1)
        cells = np.flatnonzero((columns[found] == wanted)[column_of_cell])
        center = found[column_of_cell[cells]] * depth + z[cells]
        first = cells + 1 if (dx, dy) == (0, 0) else np.searchsorted(keys, center - _REACH)
        counts = np.searchsorted(keys, center + _REACH, side="right") - first
        yield np.stack([np.repeat(cells, counts), ranges(first, counts)], axis=1)


def _join(components: np.ndarray, pairs: np.ndarray, members: _Members, chord: float) -> np.ndarray:
    """Components of cells after joining those of the pairs that have members closer than `chord`."""
    pairs = pairs[components[pairs[:, 0]] != components[pairs[:, 1]]]
    n_distances = members.counts[pairs].prod(axis=1)
    order = np.argsort(n_distances, kind="stable")
    for some in batches(n_distances[order], _BATCH):
        batch = pairs[order[some]]
        batch = batch[components[batch[:, 0]] != components[batch[:, 1]]]
        touching = batch[_touch(batch, members, chord)]
        if len(touching):
            components = component_labels(len(components), components[touching])[components]
    return components


def _touch(pairs: np.ndarray, members: _Members, chord: float) -> np.ndarray:
    """(P,) bool, whether two cells have members closer than `chord`."""
    counts = members.counts[pairs]
    n_distances = counts.prod(axis=1)
    if len(pairs) == 1 and n_distances[0] > _BATCH:
        a, b = (
            members.vectors[start : start + n] for start, n in zip(members.starts[pairs[0]], counts[0], strict=True)
        )
        return np.array([np.isfinite(cKDTree(a).query(b, distance_upper_bound=chord)[0]).any()])
    pair = np.repeat(np.arange(len(pairs)), n_distances)
    number = ranges(np.zeros_like(n_distances), n_distances)
    first = members.starts[pairs[pair, 0]] + number // counts[pair, 1]
    second = members.starts[pairs[pair, 1]] + number % counts[pair, 1]
    distances = np.linalg.norm(members.vectors[first] - members.vectors[second], axis=1)
    return np.bincount(pair[distances < chord], minlength=len(pairs)) > 0
