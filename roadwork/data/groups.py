"""What must not be separated: the groups that splitting, bootstrap and reports share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.data.table import SampleTable


@dataclass(frozen=True)
class Groups:
    """The groups of a table's N rows.

    Rows of two groups share no sequence, are no near-duplicates, and lie at least the buffer apart, but for rows that
    are set aside.

    Attributes:
        names: (N,) str group of each row, the same whatever the order of the rows.
        set_aside: (N,) bool, rows that must be in no split: they lie within the buffer of another part of a divided group.
        duplicates: (P, 2) int64 row pairs that show the same scene.
        buffer_km: closer rows were united; 0 where positions did not count.
        notes: what was found worth saying, one sentence each.
    """

    names: np.ndarray
    set_aside: np.ndarray
    duplicates: np.ndarray
    buffer_km: float
    notes: tuple[str, ...] = ()


def sequence_groups(table: SampleTable) -> np.ndarray:
    """(N,) group names: the video sequence of a row, or the row alone where its sequence is unknown."""
    alone = np.array([f"row:{row_id}" for row_id in table.ids], dtype=object)
    return np.where(table.sequence_ids == "", alone, table.sequence_ids)
