"""Positions and distances rounded, for what others may see."""

from __future__ import annotations

import math

import numpy as np

from roadwork.data.utils.geo import EARTH_RADIUS_KM

_KM_PER_DEGREE = math.radians(1) * EARTH_RADIUS_KM


def grain_km(decimals: int | None) -> float:
    """How far apart, north to south, positions of so many decimals are; 0 where they are kept whole."""
    return 0.0 if decimals is None else _KM_PER_DEGREE * 10.0**-decimals


def coarsen(gps: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N, 2) latitude, longitude rounded to ``decimals`` of a degree; None gives them unchanged, NaN stays NaN.

    One decimal is about 11 km, two 1.1 km. East to west the same step is shorter by the cosine of the latitude, so
    that far north and south a rounded longitude tells more than a rounded latitude.
    """
    if decimals is None:
        return gps
    # Adding 0 turns the -0.0 of a place just west of Greenwich into 0.0: the sign, too, would tell.
    rounded: np.ndarray = np.round(np.asarray(gps, dtype=np.float64), decimals) + 0.0
    return rounded


def coarsen_km(distance_km: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N,) distances rounded to whole steps of the same grain, so that they do not give a rounded place away."""
    if decimals is None:
        return distance_km
    step = grain_km(decimals)
    rounded: np.ndarray = np.round(np.asarray(distance_km, dtype=np.float64) / step) * step
    return rounded
