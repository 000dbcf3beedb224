"""Finds the nearest of many positions; for a handful of centres `geo.nearest_km` needs no tree."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from roadwork.data.utils.geo import haversine_km, unit_vectors


class PositionTree:
    """A k-d tree over unit vectors, where the shortest chord is the shortest great circle.

    Args:
        points_deg: (K, 2) latitude and longitude in degrees, K >= 1, without NaN.
    """

    def __init__(self, points_deg: np.ndarray) -> None:
        points = np.asarray(points_deg, dtype=np.float64)
        # Equal positions once: a tree cannot part them, and would search them all for each query.
        _, self._rows = np.unique(points[:, 0] + 1j * points[:, 1], return_index=True)
        self._points = points[self._rows]
        self._tree = cKDTree(unit_vectors(self._points))

    def nearest(self, points_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance in kilometres (N,) to the nearest of the tree's points, and its row (N,); no NaN among the N."""
        _, index = self._tree.query(unit_vectors(points_deg), workers=-1)
        return haversine_km(points_deg, self._points[index]), self._rows[index]
