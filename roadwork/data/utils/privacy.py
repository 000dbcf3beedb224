"""Positions and distances rounded, for what others may see."""

from __future__ import annotations

import math
import re

import h3
import numpy as np
import pandas as pd

from roadwork.data.utils.geo import EARTH_RADIUS_KM

# Words in the name of a column that tells where a picture was taken.
_POSITION_WORDS = {
    *("lat", "latitude", "lon", "lng", "long", "longitude", "coord", "coords", "coordinate", "coordinates", "gps"),
    *("exif", "geohash", "h3", "pluscode", "olc", "what3words", "mgrs", "utm", "easting", "northing"),
    *("wkt", "geom", "geometry"),
}
_DECIMAL = re.compile(r"-?\d+\.(\d+)")
_ROWS_LOOKED_AT = 1000
_KM_PER_DEGREE = math.radians(1) * EARTH_RADIUS_KM


def rounding_step_km(decimals: int | None) -> float:
    """How far apart, north to south, positions of so many decimals are; 0 where they are kept whole."""
    return 0.0 if decimals is None else _KM_PER_DEGREE * 10.0**-decimals


def round_positions(gps: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N, 2) latitude, longitude rounded to ``decimals`` of a degree; None gives them unchanged, NaN stays NaN.

    One decimal is about 11 km, two 1.1 km. East to west the same step is shorter by the cosine of the latitude, so
    that far north and south a rounded longitude tells more than a rounded latitude.
    """
    if decimals is None:
        return gps
    # Adding 0 turns the -0.0 of a place just west of Greenwich into 0.0: the sign, too, would tell.
    rounded: np.ndarray = np.round(np.asarray(gps, dtype=np.float64), decimals) + 0.0
    return rounded


def round_distances(distance_km: np.ndarray, decimals: int | None) -> np.ndarray:
    """(N,) distances rounded to whole steps of the same grain, so that they do not give a rounded place away."""
    if decimals is None:
        return distance_km
    step = rounding_step_km(decimals)
    rounded: np.ndarray = np.round(np.asarray(distance_km, dtype=np.float64) / step) * step
    return rounded


def position_columns(frame: pd.DataFrame, gps: np.ndarray, decimals: int | None) -> list[str]:
    """The columns that tell more of the rows' positions than so many decimals do: by name, or by most of their values.

    Args:
        frame: (N, ...) further columns of a dataset.
        gps: (N, 2) latitude, longitude in degrees, as they are; NaN where missing.
        decimals: of a degree; None hides no column.
    """
    if decimals is None:
        return []
    known = np.flatnonzero(~np.isnan(gps).any(axis=1))[:_ROWS_LOOKED_AT]
    found = []
    for position, name in enumerate(frame.columns):
        words = re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(name)).lower())
        values = frame.iloc[known, position]
        telling = sum(_reveals(str(value), gps[row], decimals) for row, value in zip(known, values, strict=True))
        if not _POSITION_WORDS.isdisjoint(words) or 2 * telling > values.notna().sum():
            found.append(name)
    return found


def _reveals(text: str, position: np.ndarray, decimals: int) -> bool:
    """Whether a number with more decimals lies within a step of the latitude or longitude."""
    numbers = [float(match[0]) for match in _DECIMAL.finditer(text) if len(match[1]) > decimals]
    return any(abs(number - degrees) < 10.0**-decimals for number in numbers for degrees in position)


def number_cells(groups: np.ndarray) -> np.ndarray:
    """(N,) group names, the H3 cell at the end of a name replaced by a number: cells can be finer than the rounding."""
    names, index = np.unique(groups.astype(str), return_inverse=True)
    numbered = [
        f"{whole}/part-{number}" if h3.is_valid_cell(cell) else name
        for number, name in enumerate(names.tolist())
        for whole, _, cell in [name.rpartition("/")]
    ]
    hidden: np.ndarray = np.array(numbered, dtype=object)[index]
    return hidden
