"""GPS columns, however they are stored, as one (N, 2) array of degrees."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from roadwork.data.utils.gps_text import (
    ACCEPTED_FORMS,
    LATITUDE_NAMES,
    LONGITUDE_NAMES,
    parse_gps_string,
    read_angle,
    read_pair,
)
from roadwork.errors import DataError

__all__ = ["NormalizedGps", "normalize_gps", "parse_gps_string"]

_SHOWN = 5
# Words of which a text without any position consists: "", "nan", "(None, None)", '{"lat": null, "lon": null}'.
_MISSING_WORDS = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", *LATITUDE_NAMES, *LONGITUDE_NAMES})


@dataclass(frozen=True)
class NormalizedGps:
    """Positions of N rows.

    Attributes:
        coordinates: (N, 2) float64 latitude and longitude in degrees, NaN where missing.
        notes: what a person should know about them, one sentence each.
        n_from_floats: rows read from the latitude and longitude columns.
        n_from_text: rows read from the text column.
        n_missing: rows without a position, those at exactly (0, 0) among them.
        n_zero: rows at exactly (0, 0), which devices write when they have no fix.
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
    """One position a row: from the latitude and longitude columns, and from the text where those are empty.

    Args:
        latitude: (N,) degrees as numbers or text; None, NaN and "" are missing. None without such a column.
        longitude: (N,) likewise.
        gps_text: (N,) texts that ``parse_gps_string`` reads; also pairs (latitude first) and mappings.
        row_names: (N,) what messages call a row, such as its file name.

    Raises:
        DataError: A column without its partner or of another length; rows with one half of a position, with
            unreadable values, or out of range. Each message names the first rows and counts all.
    """
    n_rows = len(row_names)
    if (latitude is None) != (longitude is None):
        found, lacking = ("latitude", "longitude") if longitude is None else ("longitude", "latitude")
        raise DataError(
            f"There is a {found} column but none for {lacking}. Name it with data.columns.{lacking}=COLUMN."
        )
    for name, column in (("latitude", latitude), ("longitude", longitude), ("gps", gps_text)):
        if column is not None and len(column) != n_rows:
            raise DataError(f"The {name} column has {len(column)} values for {n_rows} rows.")

    coordinates = np.full((n_rows, 2), np.nan)
    if latitude is not None and longitude is not None:
        coordinates[:, 0] = _degrees_column(latitude, "latitude", row_names)
        coordinates[:, 1] = _degrees_column(longitude, "longitude", row_names)
        _refuse_halves(coordinates, row_names)
    n_from_floats = int((~np.isnan(coordinates[:, 0])).sum())
    if gps_text is not None:
        _fill_from_text(coordinates, gps_text, row_names)
    n_from_text = int((~np.isnan(coordinates[:, 0])).sum()) - n_from_floats
    _refuse_out_of_range(coordinates, row_names)

    zero_rows = np.flatnonzero((coordinates == 0).all(axis=1))
    coordinates[zero_rows] = np.nan
    n_missing = int(np.isnan(coordinates[:, 0]).sum())
    notes = [f"GPS of {n_rows} rows: {n_from_floats} from numbers, {n_from_text} from text, {n_missing} missing."]
    if len(zero_rows):
        names = ", ".join(str(row_names[row]) for row in zero_rows[:_SHOWN])
        notes.append(
            f"{len(zero_rows)} rows at exactly (0, 0) count as missing, as of a device without a fix: {names}."
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
            problems[row] = f"{value!r}: its letter says {angle.axis}"
        degrees[row] = angle.degrees
    _refuse(problems, row_names, f"have a {axis} that cannot be read", "Write degrees as numbers, or leave it empty.")
    return degrees


def _fill_from_text(
    coordinates: np.ndarray, gps_text: Sequence[Any] | np.ndarray, row_names: Sequence[str] | np.ndarray
) -> None:
    """Sets the missing rows of ``coordinates`` (N, 2), in place, to what their text says."""
    problems: dict[int, str] = {}
    for row in np.flatnonzero(np.isnan(coordinates[:, 0])).tolist():
        value = gps_text[row]
        try:
            coordinates[row] = read_pair(_as_text(value))
        except ValueError as error:
            if not _is_missing(value):
                problems[row] = f"{str(value)[:80]!r}: {error}"
    _refuse(problems, row_names, "have a GPS text that cannot be read", f"Accepted: {ACCEPTED_FORMS}.")


def _as_text(value: Any) -> str:
    """Text as it is; mappings and arrays, which Parquet columns can hold, as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, default=str)


def _is_missing(value: Any) -> bool:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return True
    return _MISSING_WORDS.issuperset(re.split(r"[\s,;:(){}\[\]\"']+", _as_text(value).lower()))


def _refuse_halves(coordinates: np.ndarray, row_names: Sequence[str] | np.ndarray) -> None:
    is_nan = np.isnan(coordinates)
    halves = np.flatnonzero(is_nan[:, 0] != is_nan[:, 1])
    problems = {row: "latitude {:g}, longitude {:g}".format(*coordinates[row]) for row in halves.tolist()}
    _refuse(problems, row_names, "have only one of latitude and longitude", "Fill in both, or neither.")


def _refuse_out_of_range(coordinates: np.ndarray, row_names: Sequence[str] | np.ndarray) -> None:
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
    _refuse(problems, row_names, "are out of range", remedy)


def _refuse(problems: dict[int, str], row_names: Sequence[str] | np.ndarray, what: str, remedy: str) -> None:
    """Raises one error for all problem rows, naming the first ones."""
    if not problems:
        return
    shown = "; ".join(f"{row_names[row]} ({problem})" for row, problem in list(problems.items())[:_SHOWN])
    raise DataError(f"{len(problems)} of {len(row_names)} rows {what}, first: {shown}. {remedy}")
