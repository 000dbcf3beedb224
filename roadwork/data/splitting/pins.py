"""Rows whose split is fixed by a column, such as an official test split."""

from __future__ import annotations

import numpy as np

from roadwork.data.slice_columns import column_text, find_slice_column, most_frequent
from roadwork.data.splitting.assign import FREE
from roadwork.data.table import SampleTable
from roadwork.errors import ConfigError, SplitError
from roadwork.settings import SPLIT_NAMES, SplittingSettings


def read_pins(table: SampleTable, splitting: SplittingSettings) -> np.ndarray:
    """(N,) index of the split that each row is pinned to, FREE where it is not.

    Raises:
        ConfigError: no such column, or none of its values pins a row.
    """
    if splitting.pin_column is None:
        return np.full(len(table), FREE)
    values = column_text(find_slice_column(table, "data.splitting.pin_column", splitting.pin_column))
    index = {value: SPLIT_NAMES.index(name) for value, name in splitting.pin_values.items()}
    pins = np.array([index.get(value, FREE) for value in values], dtype=np.int64)
    if (pins == FREE).all():
        raise ConfigError(
            f"data.splitting.pin_column is {splitting.pin_column!r}, but it pins no row: its values are "
            f"{most_frequent(values)}, and data.splitting.pin_values has {', '.join(index) or 'none'}. "
            "Map the column's values to splits there, or set pin_column to null."
        )
    return pins


def pins_of_groups(table: SampleTable, names: np.ndarray, codes: np.ndarray, pins: np.ndarray) -> np.ndarray:
    """(G,) index of the split that each group is pinned to, FREE where it is not.

    Args:
        table: the data, for messages.
        names: (G,) the groups' names.
        codes: (N,) group of each row, FREE (-1) where it does not count.
        pins: (N,) from `read_pins`.

    Raises:
        SplitError: two rows of one group are pinned to different splits.
    """
    group_pins = np.full(len(names), FREE)
    rows = np.flatnonzero((pins != FREE) & (codes != FREE))
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
            "Rows of a group are neighbours, frames of one video, or near-duplicates, so they cannot be in two splits. "
            "Unpin one of the rows, or lower data.splitting.buffer_km if they are only neighbours."
        )
    return group_pins
