"""Parses positions from text and columns into an (N, 2) array of degrees.

``geopy.point.Point.from_string`` is not used: it skips leading garbage, reads "52,52 13,40" as (13, 40), loses
the sign of -0°30', silently wraps longitudes beyond 180, and accepts 75 arc minutes as 1.25 degrees.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.utils.angles import (
    BACK,
    BARE_EXPONENT,
    DECIMAL_COMMA,
    NUMBER,
    SIZE,
    clean_text,
    is_in_range,
    read_angle,
    sexagesimal,
)

ACCEPTED_FORMS = (
    "'52.52, 13.40' (latitude first; also with brackets, ';' or a space), '52.52°N 13.40°E' (letters set the order), "
    "52°31'12\"N 13°24'0\"E, '52,52; 13,40' (decimal commas), 'POINT(13.40 52.52)' (WKT, longitude first), "
    "'lat: 52.52, lon: 13.40', '+52.52+013.40/' (ISO 6709), 'geo:52.52,13.40', "
    '{"lat": 52.52, "lon": 13.40} and a GeoJSON Point (longitude first). A third number is an altitude'
)
LATITUDE_NAMES = ("latitude", "lat")
LONGITUDE_NAMES = ("longitude", "lon", "lng")
_BRACKETS = {"(": ")", "[": "]"}

_UNNAMED_SIZE = re.sub(r"\?P<\w+>", "?:", SIZE)
_ONE_OF_PAIR = rf"((?:[NSEW][ ]?){_UNNAMED_SIZE}|{_UNNAMED_SIZE}(?:[ ]?(?:{BACK}))?)"
_PAIR_PATTERN = re.compile(rf"{_ONE_OF_PAIR}([ ]?[,;/][ ]?|[ ]|(?<=[NSEW])){_ONE_OF_PAIR}")
_SIGNED = rf"[+-]?{NUMBER}"
_WKT_PATTERN = re.compile(
    r"(?:SRID ?= ?(?P<srid>\d+) ?; ?)?POINT ?(?:Z|M|ZM)? ?"
    rf"\( ?(?P<x>{_SIGNED}) (?P<y>{_SIGNED})(?: {_SIGNED}){{0,2}} ?\)"
)
_ISO_6709 = re.compile(
    r"(?P<latitude>[+-]\d{2}(?:\d{2}){0,2}(?:\.\d+)?)(?P<longitude>[+-]\d{3}(?:\d{2}){0,2}(?:\.\d+)?)"
    r"(?:[+-]\d+(?:\.\d+)?)?(?:CRS\w+)?/?"
)
_GEO_URI = re.compile(rf"GEO:(?P<pair>{_SIGNED},{_SIGNED})(?:,{_SIGNED})?(?:;.*)?")
_NAMED = re.compile(
    r"(?P<first>LAT|LON|LNG)[A-Z]*[ ]?[:=][ ]?(?P<a>.+?)[ ]?[,; ][ ]?(?P<second>LAT|LON|LNG)[A-Z]*[ ]?[:=][ ]?(?P<b>.+)"
)
_NUMPY = re.compile(r"(?:NP\.|NUMPY\.)?(?:FLOAT\d+|ARRAY)\(([^()]*?)(?:, ?DTYPE=\w+)?\)")
# The first two numbers need a decimal point: "1, 2, 3" may be degrees, minutes and seconds.
_WITH_ALTITUDE = re.compile(rf"([+-]?\d+\.\d*(?:E[+-]\d+)?[ ]?[,;][ ]?[+-]?\d+\.\d*(?:E[+-]\d+)?)[ ]?[,;][ ]?{_SIGNED}")
_SHOWN = 5

# A text of only these words has no position: "", "nan", "(None, None)", '{"lat": null, "lon": null}'.
_MISSING_WORDS = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", *LATITUDE_NAMES, *LONGITUDE_NAMES})


def parse_gps_string(text: str) -> tuple[float, float]:
    """Latitude and longitude in degrees, from any notation of ``ACCEPTED_FORMS``.

    Raises:
        DataError: the text is not a position, or is outside latitude ±90 and longitude ±180.
    """
    try:
        latitude, longitude = read_pair(text)
    except ValueError as error:
        raise DataError(f"Cannot read {str(text)[:80]!r} as a position: {error}. Accepted: {ACCEPTED_FORMS}.") from None
    if not is_in_range(latitude, longitude):
        hint = "Latitude must be between -90 and 90, longitude between -180 and 180."
        if is_in_range(longitude, latitude):
            hint += " In swapped order the position would be valid: write the latitude first."
        raise DataError(f"{text[:80]!r} reads as latitude {latitude:g}, longitude {longitude:g}. {hint}")
    return latitude, longitude


def read_pair(text: str) -> tuple[float, float]:
    """Latitude and longitude as written, without a range check.

    Raises:
        ValueError: the text is not in an accepted notation; the message is the reason, without the text.
    """
    clean = clean_text(text)
    if clean.startswith("{"):
        return _read_json(clean)
    clean = _unwrap_numpy(BARE_EXPONENT.sub("E+", clean.upper()))
    wkt = _WKT_PATTERN.fullmatch(clean)
    if wkt:
        if wkt["srid"] not in (None, "4326"):
            raise ValueError(f"SRID {wkt['srid']} is not longitude and latitude in degrees (SRID 4326)")
        return float(wkt["y"]), float(wkt["x"])
    if iso := _ISO_6709.fullmatch(clean):
        return _iso_degrees(iso["latitude"]), _iso_degrees(iso["longitude"])
    if _BRACKETS.get(clean[:1]) == clean[-1:]:
        clean = clean[1:-1].strip()
    if named := _NAMED.fullmatch(clean):
        return _read_named(named)
    if geo := _GEO_URI.fullmatch(clean):
        clean = geo["pair"]
    elif three := _WITH_ALTITUDE.fullmatch(clean):
        clean = three[1]
    return _read_angles(clean)


def _read_angles(text: str) -> tuple[float, float]:
    pair = _PAIR_PATTERN.fullmatch(text)
    if pair is None:
        # Commas inside numbers are decimal only if something else separates the two numbers.
        with_points, n_commas = DECIMAL_COMMA.subn(".", text)
        if n_commas >= 2 or re.search("[;°NSEW]", text):
            pair = _PAIR_PATTERN.fullmatch(with_points)
    if pair is None:
        raise ValueError("it is not two numbers in degrees")
    first, second = read_angle(pair[1]), read_angle(pair[3])
    if not pair[2] and not (first.axis and second.axis):
        raise ValueError("it is one number")
    if first.axis and first.axis == second.axis:
        raise ValueError(f"its letters make both numbers a {first.axis}")
    if first.axis == "longitude" or second.axis == "latitude":
        first, second = second, first
    return first.degrees, second.degrees


def _iso_degrees(text: str) -> float:
    """Degrees of a coordinate in ISO 6709; the number of digits tells its units: `+DD.D`, `+DDMM.M` or `+DDMMSS.S`."""
    whole, point, fraction = text[1:].partition(".")
    n_degrees = 2 + len(whole) % 2
    parts = [whole[:n_degrees], *(whole[start : start + 2] for start in range(n_degrees, len(whole), 2))]
    parts[-1] += point + fraction
    size = sexagesimal(*(float(part) for part in (*parts, "0", "0")[:3]))
    return -size if text.startswith("-") else size


def _read_named(match: re.Match[str]) -> tuple[float, float]:
    names = [match[name].replace("LNG", "LON") for name in ("first", "second")]
    if names[0] == names[1]:
        raise ValueError(f"it names {names[0].lower()} twice")
    angles = dict(zip(names, map(read_angle, (match["a"], match["b"])), strict=True))
    if angles["LAT"].axis == "longitude" or angles["LON"].axis == "latitude":
        raise ValueError("its names and letters contradict each other")
    return angles["LAT"].degrees, angles["LON"].degrees


def _read_json(text: str) -> tuple[float, float]:
    try:
        values = json.loads(text.replace("'", '"'))
    except json.JSONDecodeError:
        raise ValueError("it is not valid JSON") from None
    values = {key.lower(): value for key, value in values.items()}
    if values.get("type") == "Point" and isinstance(values.get("coordinates"), list):
        longitude, latitude = (values["coordinates"] + [None, None])[:2]
    else:
        latitude, longitude = (_first_of(values, names) for names in (LATITUDE_NAMES, LONGITUDE_NAMES))
    return _json_degrees(latitude), _json_degrees(longitude)


def _first_of(values: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((values[name] for name in names if name in values), None)


def _json_degrees(value: Any) -> float:
    if isinstance(value, str):
        return read_angle(value).degrees
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError(f"it lacks a number for one of {'/'.join(LATITUDE_NAMES)} and {'/'.join(LONGITUDE_NAMES)}")


@dataclass(frozen=True)
class NormalizedGps:
    """Positions of N rows.

    Attributes:
        coordinates: (N, 2) float64 latitude and longitude in degrees, NaN where missing.
        notes: messages for the user, one sentence each.
        n_from_floats: rows read from the latitude and longitude columns.
        n_from_text: rows read from the text column.
        n_missing: rows without a position, including rows at exactly (0, 0).
        n_zero: rows at exactly (0, 0), which devices write without a fix.
    """

    coordinates: np.ndarray
    notes: tuple[str, ...]
    n_from_floats: int
    n_from_text: int
    n_missing: int
    n_zero: int


def normalize_gps(
    latitude: Sequence[Any] | np.ndarray | None,
    longitude: Sequence[Any] | np.ndarray | None,
    gps_text: Sequence[Any] | np.ndarray | None,
    row_names: Sequence[str] | np.ndarray,
) -> NormalizedGps:
    """One position per row, from the latitude and longitude columns, or from the text if those are empty.

    Args:
        latitude: (N,) degrees as numbers or text; None, NaN and "" are missing. None if there is no such column.
        longitude: (N,) the same for longitude.
        gps_text: (N,) texts for ``parse_gps_string``, pairs (latitude first) or mappings.
        row_names: (N,) names of the rows in messages, such as file names.

    Raises:
        DataError: a column lacks its partner or has another length, or rows have half a position, unreadable values, or
            values out of range. The message counts these rows and names the first.
    """
    n_rows = len(row_names)
    if (latitude is None) != (longitude is None):
        found, lacking = ("latitude", "longitude") if longitude is None else ("longitude", "latitude")
        raise DataError(
            f"There is a {found} column but no {lacking} column. Name it with data.columns.{lacking}=COLUMN."
        )
    for name, column in (("latitude", latitude), ("longitude", longitude), ("gps", gps_text)):
        if column is not None and len(column) != n_rows:
            raise DataError(f"The {name} column has {len(column)} values for {n_rows} rows.")

    coordinates = np.full((n_rows, 2), np.nan)
    if latitude is not None and longitude is not None:
        coordinates[:, 0] = _degrees_column(latitude, "latitude", row_names)
        coordinates[:, 1] = _degrees_column(longitude, "longitude", row_names)
        _check_halves(coordinates, row_names)
    n_from_floats = int((~np.isnan(coordinates[:, 0])).sum())
    if gps_text is not None:
        _fill_from_text(coordinates, gps_text, row_names)
    n_from_text = int((~np.isnan(coordinates[:, 0])).sum()) - n_from_floats
    _check_range(coordinates, row_names)

    zero_rows = np.flatnonzero((coordinates == 0).all(axis=1))
    coordinates[zero_rows] = np.nan
    n_missing = int(np.isnan(coordinates[:, 0]).sum())
    notes = [f"GPS of {n_rows} rows: {n_from_floats} from numbers, {n_from_text} from text, {n_missing} missing."]
    if len(zero_rows):
        names = ", ".join(str(row_names[row]) for row in zero_rows[:_SHOWN])
        notes.append(
            f"{len(zero_rows)} rows at exactly (0, 0), which devices write without a fix, count as missing: {names}."
        )
    return NormalizedGps(coordinates, tuple(notes), n_from_floats, n_from_text, n_missing, len(zero_rows))


def _degrees_column(values: Sequence[Any] | np.ndarray, axis: str, row_names: Sequence[str] | np.ndarray) -> np.ndarray:
    """(N,) float64 degrees of a column of numbers or texts, NaN where missing."""
    column = pd.Series(values).reset_index(drop=True)
    degrees = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan, copy=True)
    if pd.api.types.is_numeric_dtype(column):
        return degrees
    problems: dict[int, str] = {}
    for row in np.flatnonzero(np.isnan(degrees)).tolist():
        value = column[row]
        try:
            angle = read_angle(value)
        except ValueError as error:
            if not _is_missing(value):
                problems[row] = f"{str(value)[:80]!r}: {error}"
            continue
        if angle.axis not in ("", axis):
            problems[row] = f"{value!r}: its letter marks a {angle.axis}"
        degrees[row] = angle.degrees
    _raise_for_rows(
        problems, row_names, f"have a {axis} that cannot be read", "Write degrees as numbers, or leave it empty."
    )
    return degrees


def _fill_from_text(
    coordinates: np.ndarray, gps_text: Sequence[Any] | np.ndarray, row_names: Sequence[str] | np.ndarray
) -> None:
    """Fills missing rows of ``coordinates`` (N, 2) from their text, in place."""
    problems: dict[int, str] = {}
    for row in np.flatnonzero(np.isnan(coordinates[:, 0])).tolist():
        value = gps_text[row]
        try:
            coordinates[row] = read_pair(_as_text(value))
        except ValueError as error:
            if not _is_missing(value):
                problems[row] = f"{str(value)[:80]!r}: {error}"
    _raise_for_rows(problems, row_names, "have a GPS text that cannot be read", f"Accepted: {ACCEPTED_FORMS}.")


def _as_text(value: Any) -> str:
    """The text; mappings and arrays, which Parquet columns can hold, become JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, default=str)


def _unwrap_numpy(text: str) -> str:
    """The upper-case text without numpy's names: `(NP.FLOAT64(52.5), NP.FLOAT64(13.4))` is `(52.5, 13.4)`."""
    return _NUMPY.sub(r"\1", _NUMPY.sub(r"\1", text))  # numbers, and an array of them


def _is_missing(value: Any) -> bool:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return True
    return _MISSING_WORDS.issuperset(re.split(r"[\s,;:=(){}\[\]\"']+", _unwrap_numpy(_as_text(value).upper()).lower()))


def _check_halves(coordinates: np.ndarray, row_names: Sequence[str] | np.ndarray) -> None:
    is_nan = np.isnan(coordinates)
    halves = np.flatnonzero(is_nan[:, 0] != is_nan[:, 1])
    problems = {row: "latitude {:g}, longitude {:g}".format(*coordinates[row]) for row in halves.tolist()}
    _raise_for_rows(problems, row_names, "have only one of latitude and longitude", "Fill in both, or neither.")


def _check_range(coordinates: np.ndarray, row_names: Sequence[str] | np.ndarray) -> None:
    size = np.abs(coordinates)
    is_outside = (size[:, 0] > 90) | (size[:, 1] > 180)
    is_swapped = is_outside & (size[:, 1] <= 90) & (size[:, 0] <= 180)
    rows = np.flatnonzero(is_outside).tolist()
    problems = {row: "latitude {:g}, longitude {:g}".format(*coordinates[row]) for row in rows}
    remedy = "Latitude must be between -90 and 90, longitude between -180 and 180."
    if is_swapped.any():
        remedy += (
            f" Swapping the two would make {is_swapped.sum()} of them valid: the columns are probably exchanged; "
            "map them with data.columns.latitude=COLUMN data.columns.longitude=COLUMN."
        )
    _raise_for_rows(problems, row_names, "are out of range", remedy)


def _raise_for_rows(problems: dict[int, str], row_names: Sequence[str] | np.ndarray, what: str, remedy: str) -> None:
    """Raises one error for all rows with a problem, if any; names the first rows."""
    if not problems:
        return
    shown = "; ".join(f"{row_names[row]} ({problem})" for row, problem in list(problems.items())[:_SHOWN])
    raise DataError(f"{len(problems)} of {len(row_names)} rows {what}, first: {shown}. {remedy}")
