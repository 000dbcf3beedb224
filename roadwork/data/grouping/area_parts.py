"""Parts of an area: H3 cells as large as a limit of rows allows, small ones joined with their neighbours."""

from __future__ import annotations

import heapq

import h3
import numpy as np

from roadwork.data.utils.cells import h3_cells


def area_parts(centers: np.ndarray, sizes: np.ndarray, *, finest: int, max_rows: int) -> np.ndarray:
    """(U,) object array of the H3 cell that names the part of each unit.

    A part is the largest cell with at most `max_rows` rows, joined with the parts beside it while they stay below that:
    the fewer borders, the fewer rows lie near one.

    Args:
        centers: (U, 2) latitude, longitude in degrees of the units that are never separated.
        sizes: (U,) int64 rows of each.
        finest: the H3 resolution of the smallest cells; such a cell may hold more than `max_rows`.
        max_rows: of a part.
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
    """For each part the parts beside it, with the rows in the finest cells on both sides of their border."""
    index = {cell: i for i, cell in enumerate(cells)}
    borders: dict[str, dict[str, int]] = {part: {} for part in parts}
    for i, cell in enumerate(cells):
        for neighbour in h3.grid_disk(cell, 1):
            j = index.get(neighbour, i)
            if parts[i] != parts[j]:
                borders[parts[i]][parts[j]] = borders[parts[i]].get(parts[j], 0) + n_rows[i] + n_rows[j]
    return borders


def _join(borders: dict[str, dict[str, int]], sizes: dict[str, int], max_rows: int) -> dict[str, str]:
    """Which part each joined one belongs to; the border with the most rows goes first."""
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
