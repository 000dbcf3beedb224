"""Deployment points that lie too far from every training image for weighting to help."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from roadwork.data.utils.geo import EARTH_RADIUS_KM, degrees_of, unit_vectors

REACH_KM = 200.0
# Training rows are searched this many at a time, and most deployments are found within reach by the first of them.
_CHUNK_ROWS = 1 << 20
_SHOWN = 5


def unreachable_targets(points: np.ndarray, train_gps: np.ndarray, radius_km: float = REACH_KM) -> str | None:
    """A sentence that names the deployment points without a training image within reach; None where there are none.

    Args:
        points: (M, 2) latitude, longitude of the deployment in degrees; rows with NaN are left out.
        train_gps: (N, 2) of the training rows; likewise.
        radius_km: reach, kilometres along a great circle.
    """
    points = points[~np.isnan(points).any(axis=1)]
    nearest_km = _nearest_row_km(points, train_gps, radius_km)
    is_far = nearest_km > radius_km
    if not is_far.any():
        return None
    if np.isinf(nearest_km).any():
        return "No training image has GPS, so weighting cannot help: no row is known to be close to the deployment."
    places = _places(points[is_far], nearest_km[is_far], radius_km)
    shown = [
        f"{count:,} near {latitude:.1f}, {longitude:.1f} (the closest training image is {km:,.0f} km away)"
        for count, latitude, longitude, km in places[:_SHOWN]
    ]
    if len(places) > _SHOWN:
        shown.append(f"{sum(place[0] for place in places[_SHOWN:]):,} at {len(places) - _SHOWN} other places")
    return (
        f"Weighting cannot help {is_far.sum():,} of {len(points):,} deployment points, which have no training image "
        f"within {radius_km:g} km: {'; '.join(shown)}. Add training images from there."
    )


def _nearest_row_km(points: np.ndarray, train_gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(M,) distance to the nearest training row, exact where it is over the radius; inf without any row with GPS."""
    vectors = unit_vectors(points)
    chord = np.full(len(points), np.inf)
    for start in range(0, len(train_gps), _CHUNK_ROWS):
        chunk = train_gps[start : start + _CHUNK_ROWS]
        chunk = chunk[~np.isnan(chunk).any(axis=1)]
        far = np.flatnonzero(chord > 2 * np.sin(min(radius_km / EARTH_RADIUS_KM, np.pi) / 2))
        if len(far) == 0:
            break
        if len(chunk):
            chord[far] = np.minimum(chord[far], cKDTree(unit_vectors(chunk)).query(vectors[far])[0])
    distance: np.ndarray = np.where(
        np.isinf(chord), np.inf, 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))
    )
    return distance


def _places(points: np.ndarray, nearest_km: np.ndarray, radius_km: float) -> list[tuple[int, float, float, float]]:
    """Points grouped around the first that is left: how many, their mean latitude and longitude, and the shortest way.

    The largest group first.
    """
    vectors = unit_vectors(points)
    places = []
    while len(vectors):
        is_here = vectors @ vectors[0] >= np.cos(radius_km / EARTH_RADIUS_KM)
        is_here[0] = True  # whatever rounding makes of its distance to itself
        latitude, longitude = degrees_of(vectors[is_here].sum(axis=0, keepdims=True))[0].tolist()
        places.append((int(is_here.sum()), latitude, longitude, float(nearest_km[is_here].min())))
        vectors, nearest_km = vectors[~is_here], nearest_km[~is_here]
    return sorted(places, key=lambda place: -place[0])
