"""Makes the groups of rows that must stay together in splitting, bootstrap and reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from roadwork.data.grouping.dense_areas import divide_area
from roadwork.data.grouping.proximity import component_labels, components_within
from roadwork.data.table import SampleTable

MIN_UNITS = 50  # with fewer sequences, a division would set aside too many rows


@dataclass(frozen=True)
class Groups:
    """The groups of a table's N rows.

    Rows of different groups share no sequence, are not near-duplicates, and are at least the buffer apart, except for
    rows that are set aside.

    Attributes:
        names: (N,) str group of each row; independent of the row order.
        set_aside: (N,) bool, rows to keep out of all splits: they are within the buffer of another part of a divided
            group.
        duplicates: (P, 2) int64 row pairs that show the same scene.
        buffer_km: closer rows share a group; 0 if positions were ignored.
        notes: messages for the user, one sentence each.
    """

    names: np.ndarray
    set_aside: np.ndarray
    duplicates: np.ndarray
    buffer_km: float
    notes: tuple[str, ...] = ()


def sequence_groups(table: SampleTable) -> np.ndarray:
    """(N,) group names: the video sequence of a row, or the row itself if it has no sequence."""
    alone = np.array([f"row:{row_id}" for row_id in table.ids], dtype=object)
    return np.where(table.sequence_ids == "", alone, table.sequence_ids)


def pairs_within(pairs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """(Q, 2) int64, the pairs (P, 2) whose rows are both kept (N,) bool, renumbered within the kept rows."""
    number = np.where(kept, np.cumsum(kept) - 1, -1)[pairs]
    own: np.ndarray = number[(number >= 0).all(axis=1)]
    return own


def make_groups(table: SampleTable, *, buffer_km: float, max_group_share: float, duplicates: np.ndarray) -> Groups:
    """Groups that join rows of a sequence, rows within the buffer, and near-duplicates; dense areas are divided.

    A group has the smallest name that `sequence_groups` gives its rows, followed by `/<H3 cell>` if it is a part of a
    divided group.

    Args:
        table: the rows; those without a position are joined by sequence and duplicates only.
        buffer_km: 0 ignores positions.
        max_group_share: share of all rows above which a group is divided if possible, and named in the notes.
        duplicates: (P, 2) int64 row pairs.
    """
    duplicates = np.asarray(duplicates, dtype=np.int64).reshape(-1, 2)
    sequences, sequence_names = pd.factorize(sequence_groups(table), sort=True)
    units = component_labels(len(sequence_names), sequences[duplicates])[sequences]
    components = _merge_labels(units, components_within(table.gps, buffer_km))
    sizes = np.bincount(components)
    first = np.full(len(sizes), len(sequence_names))
    np.minimum.at(first, components, sequences)
    names = sequence_names[first[components]]

    set_aside = np.zeros(len(table), dtype=bool)
    notes, left_whole = [], []
    large = np.flatnonzero(sizes > max_group_share * len(table))
    for component in large[np.lexsort([first[large], -sizes[large]])]:
        rows = np.flatnonzero(components == component)
        rows = rows[np.argsort(table.ids[rows])]  # so that floating-point sums do not depend on the order of the table
        name, unit_of_row = names[rows[0]], np.unique(units[rows], return_inverse=True)[1]
        if unit_of_row.max() + 1 < MIN_UNITS:
            left_whole.append(f"{name} ({len(rows):,} rows)")
            continue
        division = divide_area(
            table.gps[rows], unit_of_row, buffer_km=buffer_km, max_rows=int(max_group_share * len(table))
        )
        names[rows] = [f"{name}/{cell}" if cell else name for cell in division.cells]
        set_aside[rows] = division.set_aside
        notes.append(f"The group {name} holds {len(rows):,} of {len(table):,} rows {division.outcome}")
    if left_whole:
        notes.append(
            f"Left whole with more than {max_group_share:.1%} of the rows, but fewer than {MIN_UNITS} sequences: "
            f"{', '.join(left_whole[:3])}{f' and {len(left_whole) - 3} more' if len(left_whole) > 3 else ''}."
        )
    return Groups(names, set_aside, duplicates, buffer_km, tuple(notes))


def _merge_labels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,) components of rows linked by an equal label in `a` or in `b`."""
    a, b = (np.unique(labels, return_inverse=True)[1] for labels in (a, b))
    n_a = int(a.max(initial=-1)) + 1
    return component_labels(n_a + int(b.max(initial=-1)) + 1, np.stack([a, n_a + b], axis=1))[a]
