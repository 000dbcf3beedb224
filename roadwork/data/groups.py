"""What must not be separated: the groups that splitting, bootstrap and reports share."""

from __future__ import annotations

import numpy as np

from roadwork.data.table import SampleTable


def sequence_groups(table: SampleTable) -> np.ndarray:
    """(N,) group names: the video sequence of a row, or the row alone where its sequence is unknown."""
    alone = np.array([f"row:{row_id}" for row_id in table.ids], dtype=object)
    return np.where(table.sequence_ids == "", alone, table.sequence_ids)
