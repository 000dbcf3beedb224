"""Divides a dense area into parts along H3 cells."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import h3
import numpy as np
from scipy.spatial import cKDTree

from roadwork.data.grouping.proximity import chord_length
from roadwork.data.utils.geo import degrees_of, h3_cells, unit_vectors

MAX_SET_ASIDE = 0.5
MAX_LARGEST_PART = 0.5  # if one part keeps more than this, the division is not worth the rows set aside
_MIN_BUFFERS = 2  # least inradius of a cell in buffers; in smaller cells most rows are near another cell
_INRADIUS = 3**0.5 / 2  # inradius of a hexagon with unit sides


def assign_parts(centers: np.ndarray, sizes: np.ndarray, *, finest: int, max_rows: int) -> np.ndarray:
    """(U,) object array of the H3 cell that names the part of each unit.

    A part is the largest cell with at most `max_rows` rows, merged with adjacent parts while they stay below that.
    Fewer borders mean fewer rows near a border.

    Args:
        centers: (U, 2) latitude, longitude in degrees of the units, which are never separated.
        sizes: (U,) int64 rows of each unit.
        finest: H3 resolution of the smallest cells; such a cell may hold more than `max_rows`.
        max_rows: largest size of a part.
    """
    cells, cell_of_unit = np.unique(h3_cells(centers, finest), return_inverse=True)
    n_rows = np.bincount(cell_of_unit, weights=sizes).astype(np.int64)
    parts = np.full(len(cells), "", dtype=object)
    for resolution in range(finest + 1):
        parents = np.array([h3.cell_to_parent(cell, resolution) for cell in cells], dtype=object)
        names, number = np.unique(parents, return_inverse=True)
        fits = np.bincount(number, weights=n_rows)[number] <= max_rows
        chosen = (parts == "") & (fits | (resolution == finest))
        parts[chosen] = names[number[chosen]]
    borders = _borders(cells.tolist(), parts.tolist(), n_rows.tolist())
    joined_to = _join(borders, dict(zip(*_sums(parts, n_rows), strict=True)), max_rows)
    return np.array([_root(part, joined_to) for part in parts], dtype=object)[cell_of_unit]


def _sums(keys: np.ndarray, values: np.ndarray) -> tuple[list[str], list[int]]:
    names, number = np.unique(keys, return_inverse=True)
    return names.tolist(), np.bincount(number, weights=values).astype(np.int64).tolist()


def _borders(cells: list[str], parts: list[str], n_rows: list[int]) -> dict[str, dict[str, int]]:
    """The adjacent parts of each part, with the rows in the finest cells along both sides of the border."""
    index = {cell: i for i, cell in enumerate(cells)}
    borders: dict[str, dict[str, int]] = {part: {} for part in parts}
    for i, cell in enumerate(cells):
        for neighbour in h3.grid_disk(cell, 1):
            j = index.get(neighbour, i)
            if parts[i] != parts[j]:
                borders[parts[i]][parts[j]] = borders[parts[i]].get(parts[j], 0) + n_rows[i] + n_rows[j]
    return borders


def _join(borders: dict[str, dict[str, int]], sizes: dict[str, int], max_rows: int) -> dict[str, str]:
    """The part that each merged part joins; borders with the most rows are removed first."""
    heap = [(-rows, a, b) for a, others in borders.items() for b, rows in others.items() if a < b]
    heapq.heapify(heap)
    joined_to: dict[str, str] = {}
    while heap:
        rows, a, b = heapq.heappop(heap)
        is_stale = borders.get(a, {}).get(b) != -rows
        if is_stale or sizes[a] + sizes[b] > max_rows:
            continue
        joined_to[b] = a
        sizes[a] += sizes[b]
        for other, n in borders.pop(b).items():
            del borders[other][b]
            if other != a:
                borders[a][other] = borders[other][a] = borders[a].get(other, 0) + n
                heapq.heappush(heap, (-borders[a][other], min(a, other), max(a, other)))
    return joined_to


def _root(part: str, joined_to: dict[str, str]) -> str:
    while part in joined_to:
        part = joined_to[part]
    return part


@dataclass(frozen=True)
class AreaDivision:
    """A group of M rows in parts, or undivided.

    Attributes:
        cells: (M,) object array, the H3 cell that names each row's part; all "" if the group is undivided.
        set_aside: (M,) bool, rows within the buffer of a larger part.
        outcome: location and result in words, to follow the group's name.
    """

    cells: np.ndarray
    set_aside: np.ndarray
    outcome: str


def divide_area(gps: np.ndarray, units: np.ndarray, *, buffer_km: float, max_rows: int) -> AreaDivision:
    """The group divided along H3 cells into parts of at most `max_rows` if possible; rows near borders are set aside.

    No two kept rows of different parts are closer than the buffer. The group stays undivided if it is in one place, or
    if dividing it would set too many rows aside.

    Args:
        gps: (M, 2) latitude, longitude in degrees, NaN where missing; each unit has at least one position.
        units: (M,) int64 from 0; rows of one unit (a sequence with its duplicates) are never separated.
        buffer_km: above 0.
        max_rows: target size of a part; a cell that is just wide enough for the buffer may hold more.
    """
    sizes = np.bincount(units)
    centers = _centers(gps, units)
    whole = f"H3 cells wide enough for a buffer of {buffer_km:g} km do not divide it"
    for finest in range(_finest_resolution(buffer_km), -1, -1):
        parts = assign_parts(centers, sizes, finest=finest, max_rows=max_rows)
        names, part_of_unit = np.unique(parts, return_inverse=True)
        if len(names) == 1:
            break
        set_aside = _near_larger_part(gps, units, part_of_unit, buffer_km)
        n_set_aside = int(sizes[set_aside].sum())
        n_largest = int(np.bincount(part_of_unit, weights=sizes * ~set_aside).max())
        if n_largest > max(max_rows, MAX_LARGEST_PART * len(units)):
            whole = f"parts {buffer_km:g} km apart would leave more than half of it in one part"
        elif n_set_aside > MAX_SET_ASIDE * len(units):
            whole = f"parts {buffer_km:g} km apart would set more than half of it aside"
        else:
            outcome = (
                f"{_around(centers)}. It is divided into {len(names)} parts along H3 cells of resolution "
                f"{_resolutions(names)}, the largest with {n_largest:,} rows; {n_set_aside:,} rows within "
                f"{buffer_km:g} km of another part are set aside. A smaller data.splitting.buffer_km or a larger "
                "data.splitting.max_group_share sets fewer aside."
            )
            return AreaDivision(parts[units], set_aside[units], outcome)
    outcome = (
        f"{_around(centers)}. It is left whole: {whole}. A smaller data.splitting.buffer_km may divide it; a larger "
        "data.splitting.max_group_share accepts it."
    )
    return AreaDivision(np.full(len(units), "", dtype=object), np.zeros(len(units), dtype=bool), outcome)


def _around(centers: np.ndarray) -> str:
    """The location in whole degrees: precise enough for the city, not for a street."""
    latitude, longitude = degrees_of(unit_vectors(centers).sum(axis=0, keepdims=True))[0].round() + 0.0  # no "-0"
    return f"around latitude {latitude:.0f}, longitude {longitude:.0f}"


def _finest_resolution(buffer_km: float) -> int:
    """The finest H3 resolution with cells wide enough for the buffer; -1 if none has."""
    inradii = (h3.average_hexagon_edge_length(resolution, "km") * _INRADIUS for resolution in range(16))
    return len(list(itertools.takewhile(lambda inradius: inradius >= _MIN_BUFFERS * buffer_km, inradii))) - 1


def _resolutions(cells: np.ndarray) -> str:
    found = [h3.get_resolution(cell) for cell in cells]
    return " to ".join(map(str, sorted({min(found), max(found)})))


def _centers(gps: np.ndarray, units: np.ndarray) -> np.ndarray:
    """(U, 2) degrees: the centroid of each unit's rows."""
    known = ~np.isnan(gps).any(axis=1)
    axes = unit_vectors(gps[known]).T
    return degrees_of(np.stack([np.bincount(units[known], weights=axis) for axis in axes], axis=1))


def _near_larger_part(gps: np.ndarray, units: np.ndarray, part_of_unit: np.ndarray, buffer_km: float) -> np.ndarray:
    """(U,) bool, units with a row within the buffer of a kept row of a larger part.

    Only one side of each border is set aside; both sides would lose twice as many rows.
    """
    known = np.flatnonzero(~np.isnan(gps).any(axis=1))
    part_sizes = np.bincount(part_of_unit[units])
    rank = np.argsort(np.argsort(-part_sizes, kind="stable"))
    rank_of_row = rank[part_of_unit[units[known]]]
    order = np.argsort(rank_of_row, kind="stable")
    chord = chord_length(buffer_km)
    set_aside = np.zeros(len(part_of_unit), dtype=bool)
    kept: list[_KeptPositions] = []
    for rows in np.split(known[order], np.flatnonzero(np.diff(rank_of_row[order])) + 1):
        vectors, unit_of_row = unit_vectors(gps[rows]), units[rows]
        for places in kept:
            candidates = np.flatnonzero(~set_aside[unit_of_row])
            near = candidates[places.is_near(vectors[candidates], chord)]
            set_aside[unit_of_row[near]] = True
        rows_kept = rows[~set_aside[unit_of_row]]
        if len(rows_kept):
            kept.append(_KeptPositions(gps[rows_kept]))
    return set_aside


class _KeptPositions:
    """Spatial index of the kept rows of one part."""

    def __init__(self, gps: np.ndarray) -> None:
        places = np.unique(gps[:, 0] + 1j * gps[:, 1])  # many equal points would make the tree slow
        vectors = unit_vectors(np.stack([places.real, places.imag], axis=1))
        self.low, self.high = vectors.min(axis=0), vectors.max(axis=0)
        self.tree = cKDTree(vectors)

    def is_near(self, vectors: np.ndarray, chord: float) -> np.ndarray:
        """(M,) bool, whether a vector is closer than `chord` to one of the positions."""
        near: np.ndarray = ((vectors > self.low - chord) & (vectors < self.high + chord)).all(axis=1)
        if near.any():
            near[near] = np.isfinite(self.tree.query(vectors[near], distance_upper_bound=chord)[0])
        return near
