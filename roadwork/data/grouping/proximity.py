"""Connected components of points within a radius, and helpers for many small ranges in flat arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from roadwork.data.utils.geo import EARTH_RADIUS_KM, unit_vectors

_MIN_RADIUS_KM = 1e-5  # so that cell numbers fit 31 bits per axis
_ROUNDING_KM = 1e-9
_BATCH = 1 << 21  # distances in memory at a time

# The radius is sqrt(3) cells long, so two points within it are at most two cells apart along each axis. Only one of
# each two opposite directions is listed.
_REACH = 2
_COLUMNS = [(0, 0), *((dx, dy) for dx in range(_REACH + 1) for dy in range(-_REACH, _REACH + 1) if (dx, dy) > (0, 0))]


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenation of `range(starts[i], starts[i] + counts[i])` for all i."""
    ends = np.cumsum(counts)
    numbers: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return numbers


def batches(counts: np.ndarray, limit: int) -> Iterator[slice]:
    """Slices that cover all items, each with counts of about `limit`; an item above the limit starts its own slice."""
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // limit)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        if stop > start:
            yield slice(int(start), int(stop))


def chord_length(radius_km: float) -> float:
    """Chord length on the unit sphere that corresponds to a great-circle distance of `radius_km`.

    It includes a micrometre for rounding, so that no other distance formula finds a pair within the radius that was
    missed.
    """
    return float(2 * np.sin(min((radius_km + _ROUNDING_KM) / EARTH_RADIUS_KM, np.pi) / 2))


def component_labels(n_nodes: int, pairs: np.ndarray) -> np.ndarray:
    """(n_nodes,) int64 label of each node's connected component, for edges (P, 2)."""
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n_nodes, n_nodes))
    components: np.ndarray = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def components_within(gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(N,) int64 component of each point; points closer than the radius (great-circle distance) are connected.

    Uses the sphere of `haversine_km`. Time and memory grow with the number of points, not of pairs. Component numbers
    are arbitrary.

    Args:
        gps: (N, 2) latitude, longitude in degrees; a row with a NaN is its own component.
        radius_km: 0 connects nothing; a positive radius is at least 1 cm.
    """
    components = np.arange(len(gps), dtype=np.int64)
    known = np.flatnonzero(~np.isnan(gps).any(axis=1))
    if radius_km <= 0 or len(known) < 2:
        return components
    # Equal positions are one point, since a k-d tree cannot divide them.
    places, place_of_row = np.unique(gps[known, 0] + 1j * gps[known, 1], return_inverse=True)
    vectors = unit_vectors(np.stack([places.real, places.imag], axis=1))
    components[known] = len(gps) + _components_of_vectors(vectors, max(radius_km, _MIN_RADIUS_KM))[place_of_row]
    return components


def _components_of_vectors(vectors: np.ndarray, radius_km: float) -> np.ndarray:
    cells = _Cells(vectors, side=chord_length(radius_km - _ROUNDING_KM) / np.sqrt(3))
    chord = chord_length(radius_km)
    certain, uncertain = [], []
    for pairs in _neighbouring_cells(cells.grid):
        gap, span = cells.bounds(pairs)
        certain.append(pairs[span < chord])
        uncertain.append(pairs[(gap < chord) & (span >= chord)])
    components = component_labels(len(cells.grid), np.concatenate(certain))
    for members in (cells.outermost(), cells.members):
        components = _join_close_cells(components, np.concatenate(uncertain), members, chord)
    of_vector = np.empty(len(vectors), dtype=np.int64)
    of_vector[cells.order] = np.repeat(components, cells.members.counts)
    return of_vector


class _Members(NamedTuple):
    """Points sorted by cell: cell c has `counts[c]` points from index `starts[c]`."""

    vectors: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


class _Cells:
    """The occupied cells of a cubic grid around the unit sphere, sorted by x, y, z."""

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
        """Lower and upper bounds (P,) for distances of points in two cells, from their bounding boxes."""
        a, b = pairs.T
        gap = np.maximum(self.low[b] - self.high[a], self.low[a] - self.high[b]).clip(min=0)
        span = np.maximum(self.high[b] - self.low[a], self.high[a] - self.low[b])
        return np.linalg.norm(gap, axis=1), np.linalg.norm(span, axis=1)

    def outermost(self) -> _Members:
        """The points of each cell that touch its bounding box."""
        vectors, starts, counts = self.members
        low, high = np.repeat(self.low, counts, axis=0), np.repeat(self.high, counts, axis=0)
        is_outer = ((vectors == low) | (vectors == high)).any(axis=1)
        n_outer = np.add.reduceat(is_outer, starts, dtype=np.int64)
        return _Members(vectors[is_outer], np.cumsum(n_outer) - n_outer, n_outer)


def _neighbouring_cells(grid: np.ndarray) -> Iterator[np.ndarray]:
    """(P, 2) index pairs of cells at most two apart along each axis, each pair once; cells are sorted by x, y, z."""
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


def _join_close_cells(components: np.ndarray, pairs: np.ndarray, members: _Members, chord: float) -> np.ndarray:
    """Components of cells after joining the pairs with members closer than `chord`."""
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
