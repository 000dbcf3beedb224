"""The H3 cells that positions lie in."""

from __future__ import annotations

import h3
import numpy as np


def h3_cells(gps: np.ndarray, resolution: int) -> np.ndarray:
    """(N,) object array of H3 cell ids, "" for a row without a position.

    Args:
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
        resolution: H3's, from 0 (hexagons 1,281 km a side) to 15 (under a metre).
    """
    gps = np.asarray(gps, dtype=np.float64)
    cells = np.full(len(gps), "", dtype=object)
    known = ~np.isnan(gps).any(axis=1)
    cells[known] = [h3.latlng_to_cell(latitude, longitude, resolution) for latitude, longitude in gps[known].tolist()]
    return cells
