"""Pictures that were made from a photo of the data, which must not be separated from it."""

from __future__ import annotations

import logging
from collections import defaultdict

import numpy as np

from roadwork.data.extra import SOURCE
from roadwork.data.slice_columns import column_text, find_slice_column
from roadwork.data.table import SampleTable
from roadwork.errors import DataError
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

_SHOWN = 5


def pairs_with_originals(data: DataSettings, table: SampleTable) -> np.ndarray:
    """(P, 2) int64 row pairs: pictures of `data.extra` with the photo that `generated_from` says they were made from.

    An original is named by its id, its file name, or the last part of that; where several rows have the name, all of
    them count. Pictures made from one photo that is not in the data are paired with each other.

    Raises:
        ConfigError: a dataset has no such column.
        DataError: no picture of it has an original in the data.
    """
    named = [extra for extra in data.extra if extra.generated_from is not None]
    if not named:
        return np.empty((0, 2), dtype=np.int64)
    known = _rows_by_name(table)
    pairs: list[tuple[int, int]] = []
    for extra in named:
        key = f"data.extra ({extra.dataset_name}).generated_from"
        values = column_text(find_slice_column(table, key, str(extra.generated_from)))
        made_from: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero((table.slices[SOURCE] == extra.dataset_name).to_numpy() & (values != "")).tolist():
            made_from[values[row]].append(row)
        originals = {name: known.get(name) or known.get(_last_part(name), []) for name in made_from}
        _say_unknown(key, originals, table)
        for name, rows in made_from.items():
            pairs += [(min(pair), max(pair)) for row in rows for pair in _pairs(row, originals[name] or rows[:1])]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _pairs(row: int, others: list[int]) -> list[tuple[int, int]]:
    return [(row, other) for other in others if other != row]


def _rows_by_name(table: SampleTable) -> dict[str, list[int]]:
    """The rows that are not of `data.extra`, by id, file name and its last part."""
    known: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~table.is_extra).tolist():
        row_id, filename = str(table.ids[row]), str(table.filenames[row])
        for name in {row_id, filename, _last_part(filename)} - {""}:
            known[name].append(row)
    return known


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _say_unknown(key: str, originals: dict[str, list[int]], table: SampleTable) -> None:
    unknown = [name for name, rows in originals.items() if not rows]
    if not unknown:
        return
    shown = ", ".join(map(repr, unknown[:_SHOWN]))
    if len(unknown) == len(originals):
        raise DataError(
            f"{key}: none of the {len(originals):,} originals that it names is in the main dataset, first {shown}. "
            f"Allowed: the main dataset's ids (such as {table.ids[0]!r}) or file names, or empty. "
            "Mend the column, or set generated_from to null."
        )
    logger.warning(
        "%s: %s of %s originals are not in the main dataset, first %s: what was made from them is kept together.",
        *(key, f"{len(unknown):,}", f"{len(originals):,}", shown),
    )
