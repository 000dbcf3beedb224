"""Splitting strategies: geographic groups, held-out regions, held-out dates, random rows; and pins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import h3
import numpy as np
import pandas as pd

from roadwork.core.errors import ConfigError, SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.assign import UNPINNED, assign_groups
from roadwork.data.table import SampleTable, column_text, find_slice_column, most_frequent
from roadwork.data.utils.geo import h3_cells
from roadwork.settings import SPLIT_NAMES, SplittingSettings
from roadwork.settings.sampling import TEST_SPLIT

logger = logging.getLogger(__name__)

SET_ASIDE = -1
VAL_TEST = SPLIT_NAMES.index(TEST_SPLIT)

# Numbers are seconds, milli-, micro- or nanoseconds since 1970, whichever gives a year from 1990 to 2099.
_EPOCH_START, _EPOCH_END = 631_152_000, 4_102_444_800
_PER_SECOND = (1, 10**3, 10**6, 10**9)
_CITY_RESOLUTION = 4  # hexagons of about 26 km a side
_SHOWN = 5


def rows_in_regions(table: SampleTable, splitting: SplittingSettings) -> np.ndarray:
    """(N,) bool, True for rows in `splitting.regions`: values of the region column, or H3 cells of any resolution.

    Raises:
        ConfigError: there is no such column, or a region has no row.
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
        return f"an H3 cell without rows. Cells of resolution {resolution} with rows: {cells}."
    if column is not None:
        return f"which is neither an H3 cell nor a value of the column {column!r}. Its values: {most_frequent(values)}."
    return (
        f"which is not an H3 cell. Cells of resolution {_CITY_RESOLUTION} with rows: "
        f"{most_frequent(h3_cells(table.gps, _CITY_RESOLUTION))}. For regions by name, set "
        f"data.splitting.region_column; other columns: {', '.join(map(str, table.slices)) or 'none'}."
    )


def rows_after(table: SampleTable, splitting: SplittingSettings) -> tuple[np.ndarray, str]:
    """(N,) bool, True for images captured at or after `splitting.after`, and the range of times in words.

    Times without a zone are UTC. A row without a time gives False.

    Raises:
        ConfigError: there is no such column, or `splitting.after` is not a time.
        SplitError: no row has a time, or a time cannot be read.
    """
    after = pd.to_datetime(pd.Series([splitting.after], dtype=object), format="ISO8601", utc=True, errors="coerce")[0]
    if pd.isna(after):
        raise ConfigError(
            f"data.splitting.after is {splitting.after!r}. Allowed: a date or time in ISO 8601, such as 2025-06-01 "
            "or 2025-06-01T12:00:00+02:00."
        )
    column = splitting.time_column
    times = parse_times(find_slice_column(table, "data.splitting.time_column", column), table.ids)
    missing = int(times.isna().sum())
    if missing == len(table):
        raise SplitError(f"No row has a time in the column {column!r}. Name another with data.splitting.time_column.")
    if missing:
        logger.warning("%s of %s rows have no time in %r and stay out of val_test.", missing, len(table), column)
    return (times >= after).to_numpy(), f"{column!r} ranges from {times.min().isoformat()} to {times.max().isoformat()}"


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
            "since 1970; or empty. Fix these rows, or name another column with data.splitting.time_column."
        )
    return times


def read_pins(table: SampleTable, splitting: SplittingSettings) -> np.ndarray:
    """(N,) index of the split that each row is pinned to, or UNPINNED.

    Raises:
        ConfigError: there is no such column, or none of its values pins a row.
    """
    if splitting.pin_column is None:
        return np.full(len(table), UNPINNED)
    values = column_text(find_slice_column(table, "data.splitting.pin_column", splitting.pin_column))
    index = {value: SPLIT_NAMES.index(name) for value, name in splitting.pin_values.items()}
    pins = np.array([index.get(value, UNPINNED) for value in values], dtype=np.int64)
    if (pins == UNPINNED).all():
        raise ConfigError(
            f"data.splitting.pin_column is {splitting.pin_column!r}, but pins no row: its values are "
            f"{most_frequent(values)}, and data.splitting.pin_values has {', '.join(index) or 'none'}. "
            "Map values of the column to splits in pin_values, or set pin_column to null."
        )
    return pins


def pins_by_group(table: SampleTable, names: np.ndarray, codes: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """(G,) index of the split that each group is pinned to, or UNPINNED.

    Args:
        table: the dataset, for messages.
        names: (G,) the groups' names.
        codes: (N,) index of each row's group, -1 for rows to ignore.
        pins: (N,) result of `read_pins`.

    Raises:
        SplitError: two rows of one group are pinned to different splits.
    """
    group_pins = np.full(len(names), UNPINNED)
    rows = np.flatnonzero((pins != UNPINNED) & (codes != UNPINNED))
    rows = rows[np.argsort(table.ids[rows], kind="stable")]
    first = np.full(len(names), -1)
    first[codes[rows[::-1]]] = rows[::-1]
    group_pins[codes[rows]] = pins[first[codes[rows]]]
    against = rows[pins[rows] != group_pins[codes[rows]]]
    if len(against):
        row, other = against[0], first[codes[against[0]]]
        raise SplitError(
            f"{len(np.unique(codes[against]))} groups are pinned to two splits, first {names[codes[row]]!r}: "
            f"{table.ids[other]} to {SPLIT_NAMES[pins[other]]}, {table.ids[row]} to {SPLIT_NAMES[pins[row]]}. "
            "Rows of a group are close together, frames of one video, or near-duplicates, and must share a split. "
            "Unpin one of the rows, or lower data.splitting.buffer_km if they are only close together."
        )
    return group_pins


@dataclass(frozen=True)
class _SplitInputs:
    """Input of every strategy; `ratios` follow SPLIT_NAMES, and `pins` are indices into it or UNPINNED."""

    table: SampleTable
    groups: Groups
    ratios: np.ndarray
    pins: np.ndarray
    seed: int

    def assign_groups_of(self, names: np.ndarray, usable: np.ndarray, ratios: np.ndarray) -> np.ndarray:
        """(N,) split of each usable row, whole groups of the (N,) names together; SET_ASIDE for other rows."""
        codes = np.full(len(self.table), UNPINNED)
        codes[usable], unique = pd.factorize(names[usable])
        rows = np.bincount(codes[usable], minlength=len(unique))
        positives = np.bincount(codes[usable], weights=self.table.labels[usable], minlength=len(unique))
        pinned = pins_by_group(self.table, unique, codes, self.pins)
        assigned = assign_groups(unique, rows, positives, pinned, ratios, seed=self.seed)
        return np.where(usable, assigned[codes], SET_ASIDE)


def assign_rows(
    table: SampleTable, groups: Groups, ratios: Mapping[str, float], splitting: SplittingSettings
) -> np.ndarray:
    """(N,) index of each row's split in SPLIT_NAMES, or SET_ASIDE, by `splitting.strategy`.

    A pinned row takes its whole group with it. Pins that contradict a held-out region or date are an error. Rows that
    `groups` sets aside stay set aside even if pinned, with a warning.

    Raises:
        ConfigError: a setting names a column, region or time that the data lacks.
        SplitError: the data cannot be split this way.
    """
    shares = np.array([ratios[name] for name in SPLIT_NAMES])
    inputs = _SplitInputs(table, groups, shares, read_pins(table, splitting), splitting.seed)
    if splitting.strategy == "random":
        # A baseline without groups, so rows that groups set aside are included.
        return inputs.assign_groups_of(table.ids, ~np.isin(table.ids, list(table.dropped_ids)), shares)
    lost = int((groups.set_aside & (inputs.pins != UNPINNED)).sum())
    if lost:
        logger.warning("%s pinned rows are set aside: they are within the buffer of another part of their group.", lost)
    if splitting.strategy == "region_holdout":
        where = f"in the regions {', '.join(splitting.regions)}"
        return _hold_out(inputs, rows_in_regions(table, splitting), where, "Name other data.splitting.regions.")
    if splitting.strategy == "temporal":
        after, span = rows_after(table, splitting)
        remedy = f"{span}; choose another data.splitting.after."
        return _hold_out(inputs, after, f"taken at or after {splitting.after}", remedy)
    return inputs.assign_groups_of(groups.names, ~groups.set_aside, shares)


def _hold_out(inputs: _SplitInputs, held: np.ndarray, where: str, remedy: str) -> np.ndarray:
    """(N,) splits with exactly the held-out rows in val_test; the others share the groups without a held-out row.

    Args:
        inputs: the input.
        held: (N,) bool, the held-out rows.
        where: describes the held-out rows, for messages.
        remedy: what to do if too few or too many rows are held out.
    """
    table, usable = inputs.table, ~inputs.groups.set_aside
    test = held & usable
    touched = usable & pd.Series(inputs.groups.names).isin(inputs.groups.names[test]).to_numpy()
    rest = usable & ~touched
    _check_held_out(table, test, rest, where, remedy)
    _check_pins(inputs, test, touched, where)
    if (touched & ~test).any():
        logger.warning(
            "%s rows are set aside: they share a group with rows %s.",
            f"{int((touched & ~test).sum()):,}",
            where,
        )
    split = inputs.assign_groups_of(
        inputs.groups.names, rest, np.where(np.arange(len(SPLIT_NAMES)) == VAL_TEST, 0, inputs.ratios)
    )
    split[test] = VAL_TEST
    return split


def _check_held_out(table: SampleTable, test: np.ndarray, rest: np.ndarray, where: str, remedy: str) -> None:
    counts = np.bincount(table.labels[test], minlength=2)
    if not counts.all():
        raise SplitError(
            f"val_test would be the rows {where} that are not set aside: {counts[0]:,} of label 0 and {counts[1]:,} "
            f"of label 1. It needs both labels. {remedy}"
        )
    if not rest.any():
        raise SplitError(f"No row remains for train: every row is {where}, or shares a group with such a row. {remedy}")


def _check_pins(inputs: _SplitInputs, test: np.ndarray, touched: np.ndarray, where: str) -> None:
    """Checks that no pin moves a held-out row or its group out of val_test, or another row into it."""
    pins, usable = inputs.pins, ~inputs.groups.set_aside
    away = touched & (pins != UNPINNED) & ~(test & (pins == VAL_TEST))
    into = usable & ~touched & (pins == VAL_TEST)
    wrong = np.flatnonzero(away | into)
    if len(wrong):
        row = wrong[np.argmin(inputs.table.ids[wrong])]
        is_part = "is" if test[row] else "is not" if pins[row] == VAL_TEST else "shares a group with rows"
        raise SplitError(
            f"{len(wrong)} pinned rows contradict the strategy, first {inputs.table.ids[row]}: it is pinned to "
            f"{SPLIT_NAMES[pins[row]]}, but {is_part} {where}; val_test is exactly these rows. "
            "Unpin such rows in data.splitting.pin_column or pin_values, or hold out other rows."
        )
