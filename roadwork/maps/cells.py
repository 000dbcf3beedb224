"""Rows gathered into H3 cells, so that a map of a million rows stays one that a browser can draw."""

from __future__ import annotations

import h3
import numpy as np

from roadwork.data.utils.cells import h3_cells
from roadwork.data.utils.geo import degrees_of, unit_vectors
from roadwork.data.utils.privacy import grain_km

_COARSEST, _FINEST = 1, 9  # cells of 480 km and of 200 m a side
# A cell can be seen and pointed at from this size on.
_SIDE_PIXELS = 9
# Web Mercator at zoom 0, on the equator.
_KM_PER_PIXEL = 2 * np.pi * 6378.137 / 256


def finest_resolution(decimals: int | None) -> int:
    """The finest resolution whose cells are no smaller than the grain of positions with so many decimals."""
    fitting = [r for r in range(_COARSEST, _FINEST + 1) if _side_km(r) >= grain_km(decimals)]
    return max(fitting)


def zoom_of(resolution: int, latitude: float) -> float:
    """The zoom of a web map from which on the cells of a resolution are large enough to be seen; 0 for the coarsest."""
    if resolution == _COARSEST:
        return 0.0
    return float(np.log2(_SIDE_PIXELS * _KM_PER_PIXEL * np.cos(np.deg2rad(latitude)) / _side_km(resolution)))


def _side_km(resolution: int) -> float:
    return float(h3.average_hexagon_edge_length(resolution, unit="km"))


def gather_cells(gps: np.ndarray, resolution: int, max_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) H3 cells, at most ``max_cells`` of them, and (N,) the number of each row's cell.

    Args:
        gps: (N, 2) latitude, longitude in degrees, without NaN.
        resolution: of H3; coarser where it would give too many cells.
        max_cells: at least 842, what H3 has at the coarsest resolution used here.
    """
    cells, index = np.unique(h3_cells(gps, resolution).astype(str), return_inverse=True)
    while len(cells) > max_cells:
        cells, parent = parent_cells(cells)
        index = parent[index]
    return cells, index


def parent_cells(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) the cells of the next coarser resolution, and (C,) which of them each cell belongs to."""
    parents, index = np.unique([h3.cell_to_parent(cell) for cell in cells], return_inverse=True)
    return parents, index


def cell_levels(gps: np.ndarray, decimals: int | None, max_cells: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(resolution, (C,) cells, (C,) rows in each) from the finest resolution that is wanted to the coarsest."""
    cells, index = gather_cells(gps, finest_resolution(decimals), max_cells)
    counts = np.bincount(index)
    levels = [(h3.get_resolution(cells[0]), cells, counts)]
    while levels[-1][0] > _COARSEST:
        cells, index = parent_cells(cells)
        counts = np.bincount(index, weights=counts).astype(int)
        levels.append((levels[-1][0] - 1, cells, counts))
    return levels


def mean_positions(gps: np.ndarray, index: np.ndarray, n_means: int) -> np.ndarray:
    """(C, 2) mean latitude, longitude in degrees of each cell's rows, taken on the sphere."""
    sums = np.stack(
        [np.bincount(index, weights=component, minlength=n_means) for component in unit_vectors(gps).T], axis=1
    )
    return degrees_of(sums)
