"""Which rows val_test is made of, where a region or a date says so."""

from __future__ import annotations

import logging

import h3
import numpy as np
import pandas as pd

from roadwork.data.slice_columns import column_text, find_slice_column, most_frequent
from roadwork.data.table import SampleTable
from roadwork.data.utils.cells import h3_cells
from roadwork.errors import ConfigError, SplitError
from roadwork.settings import SplittingSettings

logger = logging.getLogger(__name__)

# Numbers are seconds, milliseconds, microseconds or nanoseconds since 1970, whichever gives a year from 1990 to 2099.
_EPOCH_START, _EPOCH_END = 631_152_000, 4_102_444_800
_PER_SECOND = (1, 10**3, 10**6, 10**9)
_CITY_RESOLUTION = 4  # hexagons of about 26 km a side
_SHOWN = 5


def rows_in_regions(table: SampleTable, splitting: SplittingSettings) -> np.ndarray:
    """(N,) bool, True in `splitting.regions`: values of the region column, or H3 cells of any resolution.

    Raises:
        ConfigError: no such column, or a region without a row.
    """
    column = splitting.region_column
    values = np.full(len(table), "", dtype=object)
    if column is not None:
        values = column_text(find_slice_column(table, "data.splitting.region_column", column))
    cells: dict[int, np.ndarray] = {}
    inside = np.zeros(len(table), dtype=bool)
    for region in splitting.regions:
        there = (values == region) & (values != "")
        if not there.any() and h3.is_valid_cell(region):
            resolution = h3.get_resolution(region)
            if resolution not in cells:
                cells[resolution] = h3_cells(table.gps, resolution)
            there = cells[resolution] == region.lower()
        if not there.any():
            raise ConfigError(f"data.splitting.regions names {region!r}, {_why_unknown(region, table, column, values)}")
        inside |= there
    return inside


def _why_unknown(region: str, table: SampleTable, column: str | None, values: np.ndarray) -> str:
    if h3.is_valid_cell(region):
        resolution = h3.get_resolution(region)
        cells = most_frequent(h3_cells(table.gps, resolution))
        return f"an H3 cell where no row lies. The rows' cells of its resolution, {resolution}, are: {cells}."
    if column is not None:
        return f"which is neither an H3 cell nor in the column {column!r}. Its values are: {most_frequent(values)}."
    return (
        f"which is no H3 cell. The rows' cells of resolution {_CITY_RESOLUTION} are: "
        f"{most_frequent(h3_cells(table.gps, _CITY_RESOLUTION))}. For regions by name, set "
        f"data.splitting.region_column; the data's further columns are: {', '.join(map(str, table.slices)) or 'none'}."
    )


def rows_after(table: SampleTable, splitting: SplittingSettings) -> tuple[np.ndarray, str]:
    """(N,) bool, True for a picture taken at or after `splitting.after`, and the range of times in words.

    Times without a zone are UTC. A row without a time is not after.

    Raises:
        ConfigError: no such column, or `splitting.after` is no time.
        SplitError: no row has a time, or one that cannot be read.
    """
    after = pd.to_datetime(pd.Series([splitting.after], dtype=object), format="ISO8601", utc=True, errors="coerce")[0]
    if pd.isna(after):
        raise ConfigError(
            f"data.splitting.after is {splitting.after!r}. Allowed: a date or moment in ISO 8601, such as 2025-06-01 "
            "or 2025-06-01T12:00:00+02:00."
        )
    column = splitting.time_column
    times = parse_times(find_slice_column(table, "data.splitting.time_column", column), table.ids)
    missing = int(times.isna().sum())
    if missing == len(table):
        raise SplitError(f"No row has a time in the column {column!r}. Name another with data.splitting.time_column.")
    if missing:
        logger.warning("%s of %s rows have no time in %r; none of them is in val_test.", missing, len(table), column)
    return (times >= after).to_numpy(), f"{column!r} goes from {times.min().isoformat()} to {times.max().isoformat()}"


def parse_times(values: pd.Series, ids: np.ndarray) -> pd.Series:
    """(N,) UTC times from ISO 8601 text, timestamps, or numbers since 1970; NaT where a value is missing.

    Raises:
        SplitError: values that are none of these, with their rows.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return pd.to_datetime(values, utc=True).reset_index(drop=True)
    text = pd.Series(column_text(values), dtype=object)
    given = text != ""
    times = pd.to_datetime(text.where(given), format="ISO8601", utc=True, errors="coerce").dt.as_unit("us")
    numbers = pd.to_numeric(text.where(given), errors="coerce").astype(float)
    for per_second in _PER_SECOND:
        fits = numbers.between(_EPOCH_START * per_second, _EPOCH_END * per_second, inclusive="left")
        microseconds = (numbers[fits].to_numpy() / per_second * 1e6).round().astype(np.int64)
        times[fits] = pd.to_datetime(microseconds, unit="us", utc=True).as_unit("us")
    bad = np.flatnonzero(given & times.isna())
    if len(bad):
        shown = "; ".join(f"{ids[row]}: {text[row]!r}" for row in bad[:_SHOWN])
        raise SplitError(
            f"{len(bad)} of {len(values)} rows have a time that cannot be read in the column {values.name!r}, first: "
            f"{shown}. Allowed: ISO 8601, such as 2025-06-01T12:00:00Z; seconds, or milli-, micro- or nanoseconds "
            "since 1970; or empty. Mend these rows, or name another column with data.splitting.time_column."
        )
    return times
