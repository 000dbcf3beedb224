"""Rounds positions and distances before results are shared."""

from __future__ import annotations

import math
import re

import h3
import numpy as np
import pandas as pd

from roadwork.data.utils.geo import EARTH_RADIUS_KM

# Words in the names of columns that may reveal a position.
_POSITION_WORDS = {
    *("lat", "latitude", "lon", "lng", "long", "longitude", "coord", "coords", "coordinate", "coordinates", "gps"),
    *("exif", "geohash", "h3", "pluscode", "olc", "what3words", "mgrs", "utm", "easting", "northing"),
    *("wkt", "geom", "geometry"),
}
_DECIMAL = re.compile(r"-?\d+\.(\d+)")
_MAX_ROWS_CHECKED = 1000
_KM_PER_DEGREE = math.radians(1) * EARTH_RADIUS_KM


def rounding_step_km(decimals: int | None) -> float:
    """North-south distance between positions rounded to `decimals` of a degree; 0 without rounding (None)."""
    return 0.0 if decimals is None else _KM_PER_DEGREE * 10.0**-decimals


def round_positions(gps: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N, 2) latitude, longitude rounded to ``decimals`` of a degree; None changes nothing, NaN stays NaN.

    One decimal is about 11 km, two are 1.1 km. East-west steps are shorter by the cosine of the latitude, so at high
    latitudes a rounded longitude is more precise than a rounded latitude.
    """
    if decimals is None:
        return gps
    # Adding 0 turns -0.0 into 0.0, whose sign would reveal the side of Greenwich or the equator.
    rounded: np.ndarray = np.round(np.asarray(gps, dtype=np.float64), decimals) + 0.0
    return rounded


def round_distances(distance_km: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N,) distances rounded to multiples of `rounding_step_km`, so that they do not reveal rounded positions."""
    if decimals is None:
        return distance_km
    step = rounding_step_km(decimals)
    rounded: np.ndarray = np.round(np.asarray(distance_km, dtype=np.float64) / step) * step
    return rounded


def position_columns(frame: pd.DataFrame, gps: np.ndarray, decimals: int | None) -> list[str]:
    """Columns that reveal positions more precisely than `decimals`, by name or by most of their values.

    Args:
        frame: (N, ...) additional columns of a dataset.
        gps: (N, 2) exact latitude, longitude in degrees, NaN where missing.
        decimals: decimals of a degree; None returns no column.
    """
    if decimals is None:
        return []
    known = np.flatnonzero(~np.isnan(gps).any(axis=1))[:_MAX_ROWS_CHECKED]
    found = []
    for position, name in enumerate(frame.columns):
        words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name)).lower())
        values = frame.iloc[known, position]
        telling = sum(_reveals(str(value), gps[row], decimals) for row, value in zip(known, values, strict=True))
        if not _POSITION_WORDS.isdisjoint(words) or 2 * telling > values.notna().sum():
            found.append(name)
    return found


def _reveals(text: str, position: np.ndarray, decimals: int) -> bool:
    """Whether the text has a number with more decimals within one step of the latitude or longitude."""
    numbers = [float(match[0]) for match in _DECIMAL.finditer(text) if len(match[1]) > decimals]
    return any(abs(number - degrees) < 10.0**-decimals for number in numbers for degrees in position)


def number_cells(groups: np.ndarray) -> np.ndarray:
    """(N,) group names with a final H3 cell replaced by a number, since cells can be finer than the rounding."""
    names, index = np.unique(groups.astype(str), return_inverse=True)
    numbered = [
        f"{whole}/part-{number}" if h3.is_valid_cell(cell) else name
        for number, name in enumerate(names.tolist())
        for whole, _, cell in [name.rpartition("/")]
    ]
    hidden: np.ndarray = np.array(numbered, dtype=object)[index]
    return hidden
