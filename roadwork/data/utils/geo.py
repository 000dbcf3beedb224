"""Great-circle distances, nearest neighbours and H3 cells."""

from __future__ import annotations

import h3
import numpy as np
from scipy.spatial import cKDTree

EARTH_RADIUS_KM = 6371.0088  # IUGG mean radius, the one geopy's great_circle uses
_CHUNK_ROWS = 1 << 16
_MIN_OFF_DIAGONAL = 5  # degrees between latitude and longitude


def unit_vectors(points_deg: np.ndarray) -> np.ndarray:
    """(N, 3) float64 unit vectors of (N, 2) latitude, longitude in degrees."""
    points: np.ndarray = np.deg2rad(np.asarray(points_deg, dtype=np.float64))
    latitude, longitude = points[:, 0], points[:, 1]
    cos_latitude = np.cos(latitude)
    return np.stack([cos_latitude * np.cos(longitude), cos_latitude * np.sin(longitude), np.sin(latitude)], axis=1)


def degrees_of(vectors: np.ndarray) -> np.ndarray:
    """(N, 2) latitude, longitude in degrees of (N, 3) vectors of any positive length."""
    x, y, z = np.asarray(vectors, dtype=np.float64).T
    degrees: np.ndarray = np.rad2deg(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=1))
    return degrees


def haversine_km(a_deg: np.ndarray, b_deg: np.ndarray) -> np.ndarray:
    """Great-circle distance in kilometres between (..., 2) latitude, longitude in degrees; the two broadcast.

    Uses the haversine formula (Sinnott, 1984), which is accurate for nearby points, unlike the arc cosine of a dot
    product. Differences are computed in degrees, before rounding to radians.
    """
    a_deg, b_deg = np.asarray(a_deg, dtype=np.float64), np.asarray(b_deg, dtype=np.float64)
    half_delta = np.deg2rad(b_deg - a_deg) / 2
    cos_product = np.cos(np.deg2rad(a_deg[..., 0])) * np.cos(np.deg2rad(b_deg[..., 0]))
    haversine = np.sin(half_delta[..., 0]) ** 2 + cos_product * np.sin(half_delta[..., 1]) ** 2
    distance: np.ndarray = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(haversine, 1.0)))
    return distance


def nearest_km(points_deg: np.ndarray, centers_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in kilometres (N,) to the nearest of K centres, and its index (N,).

    Args:
        points_deg: (N, 2) latitude, longitude in degrees; a row with a NaN gets distance NaN and index -1.
        centers_deg: (K, 2) latitude, longitude in degrees, without NaN, K >= 1.
    """
    points_deg, centers_deg = np.asarray(points_deg), np.asarray(centers_deg, dtype=np.float64)
    center_vectors = unit_vectors(centers_deg)
    distance = np.empty(len(points_deg))
    index = np.empty(len(points_deg), dtype=np.int64)
    for start in range(0, len(points_deg), _CHUNK_ROWS):
        chunk = points_deg[start : start + _CHUNK_ROWS]
        rows = slice(start, start + len(chunk))
        # The largest dot product is the nearest; only the distance needs the accurate formula.
        # For three columns, einsum is faster than a multi-threaded BLAS product.
        index[rows] = np.einsum("nd,kd->nk", unit_vectors(chunk), center_vectors).argmax(axis=1)
        distance[rows] = haversine_km(chunk, centers_deg[index[rows]])
    index[np.isnan(distance)] = -1
    return distance, index


def find_exchanged(gps: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The rows (K,) whose latitude and longitude are probably exchanged, although both are in range.

    Fewer reference positions are near such a row than near the row with its two numbers exchanged. Near is up to one or
    two degrees. Rows near the diagonal, where an exchange changes little, are never found.

    Args:
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
        reference: (M, 2) positions to compare with, NaN where missing; the same as `gps` to compare the rows.
    """
    cells, counts = np.unique(np.floor(reference[~np.isnan(reference).any(axis=1)]), axis=0, return_counts=True)
    n_in_cell = dict(zip(map(tuple, cells.tolist()), counts.tolist(), strict=True))
    own, cell_of_row = np.unique(np.floor(gps), axis=0, return_inverse=True)

    def n_near(a: float, b: float) -> int:
        return sum(n_in_cell.get((a + da, b + db), 0) for da in (-1, 0, 1) for db in (-1, 0, 1))

    is_exchanged = [
        abs(a - b) > _MIN_OFF_DIAGONAL and abs(b) <= 90 and n_near(b, a) > n_near(a, b) for a, b in own.tolist()
    ]
    found: np.ndarray = np.flatnonzero(np.array(is_exchanged, dtype=bool)[cell_of_row])
    return found


def h3_cells(gps: np.ndarray, resolution: int) -> np.ndarray:
    """(N,) object array of H3 cell ids, "" for a row without a position.

    Args:
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
        resolution: H3 resolution, from 0 (hexagon sides of 1,281 km) to 15 (under a metre).
    """
    gps = np.asarray(gps, dtype=np.float64)
    cells = np.full(len(gps), "", dtype=object)
    known = ~np.isnan(gps).any(axis=1)
    cells[known] = [h3.latlng_to_cell(latitude, longitude, resolution) for latitude, longitude in gps[known].tolist()]
    return cells


class PositionTree:
    """Nearest-neighbour search by great-circle distance, with a k-d tree of unit vectors.

    Args:
        points_deg: (K, 2) latitude and longitude in degrees, K >= 1, without NaN.
    """

    def __init__(self, points_deg: np.ndarray) -> None:
        points = np.asarray(points_deg, dtype=np.float64)
        # Equal positions are stored once: a tree cannot divide them, and would search all of them in each query.
        _, self._rows = np.unique(points[:, 0] + 1j * points[:, 1], return_index=True)
        self._points = points[self._rows]
        self._tree = cKDTree(unit_vectors(self._points))

    def nearest(self, points_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance in kilometres (N,) to the nearest of the tree's points, and its row (N,); no NaN among the N."""
        _, index = self._tree.query(unit_vectors(points_deg), workers=-1)
        return haversine_km(points_deg, self._points[index]), self._rows[index]
