"""Distances on a sphere of the Earth's mean radius."""

import numpy as np

EARTH_RADIUS_KM = 6371.0088  # IUGG mean radius, the one geopy's great_circle uses
_CHUNK_ROWS = 1 << 16


def unit_vectors(points_deg: np.ndarray) -> np.ndarray:
    """(N, 3) float64 points on the unit sphere of (N, 2) latitude, longitude in degrees."""
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

    The haversine formula (Sinnott, 1984), which stays exact for points that nearly coincide, where the arc cosine
    of a dot product does not. Differences are taken in degrees, before rounding to radians.
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
        centers_deg: (K, 2) likewise, without NaN, K >= 1.
    """
    points_deg, centers_deg = np.asarray(points_deg), np.asarray(centers_deg, dtype=np.float64)
    center_vectors = unit_vectors(centers_deg)
    distance = np.empty(len(points_deg))
    index = np.empty(len(points_deg), dtype=np.int64)
    for start in range(0, len(points_deg), _CHUNK_ROWS):
        chunk = points_deg[start : start + _CHUNK_ROWS]
        rows = slice(start, start + len(chunk))
        # The largest cosine is the nearest; only the distance itself needs the formula that is exact when near.
        # einsum, not a matrix product: the threads of BLAS cost more than they bring for three columns.
        index[rows] = np.einsum("nd,kd->nk", unit_vectors(chunk), center_vectors).argmax(axis=1)
        distance[rows] = haversine_km(chunk, centers_deg[index[rows]])
    index[np.isnan(distance)] = -1
    return distance, index
