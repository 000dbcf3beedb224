"""Applies label corrections from the edited csv of a label audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.columns import label_of
from roadwork.data.table import Corrections, SampleTable

# The correction for an image that fits neither label.
DROP = "drop"
_COLUMNS = ("id", "label", "corrected_label")
_SHOWN = 5


def apply_label_corrections(table: SampleTable, path: Path, class_names: Mapping[str, int]) -> SampleTable:
    """The table with corrected labels and dropped rows.

    The file is `label_audit.csv` of `roadwork experiment cv`, filled in on the audit's page or in a spreadsheet. An
    empty `corrected_label` changes nothing; 0, 1 or a class name replaces the label; `drop` excludes the row from every
    split.

    Args:
        table: the dataset as it was audited.
        path: the edited file.
        class_names: class names to 0 and 1.

    Returns:
        The new table, row-aligned with the old one. Existing splits still fit it.

    Raises:
        DataError: the file cannot be read, has an unknown value, an unknown or repeated id, or a label that the table
            no longer has.
    """
    corrections = _read_corrections(path)
    unknown = corrections[~corrections["id"].isin(table.ids)]
    if len(unknown):
        raise DataError(
            f"{path} corrects {len(unknown)} rows that the data lacks: {_show(unknown, 'id')}. Allowed: the data's "
            f"ids, such as {table.ids[0]!r}. Spreadsheets turn 007 or 1e5 into numbers: open the id column as text."
        )
    repeated = corrections[corrections["id"].duplicated(keep=False)]
    if len(repeated):
        raise DataError(f"{path} corrects rows more than once: {_show(repeated, 'id')}. Keep one line per row.")
    rows = pd.Series(np.arange(len(table)), index=table.ids)[corrections["id"]].to_numpy()
    corrections["now"] = table.labels[rows]
    audited = np.array([label_of(value, class_names) for value in corrections["label"]])
    changed = corrections[audited != table.labels[rows]]
    if len(changed):
        raise DataError(
            f"{path} was made with other labels: {_show(changed, 'id', 'label', 'now')}. "
            "Clear corrected_label in rows that were fixed in the data since, or run `roadwork experiment cv` again."
        )
    is_dropped = (corrections["corrected_label"].str.lower() == DROP).to_numpy()
    labels = table.labels.copy()
    labels[rows[~is_dropped]] = _parse(corrections[~is_dropped], class_names, path)
    corrected, dropped = int((labels != table.labels).sum()), int(is_dropped.sum())
    confirmed = len(corrections) - corrected - dropped
    note = f"{path}: {corrected:,} labels corrected, {confirmed:,} confirmed, {dropped:,} rows dropped."
    before = Corrections(table.source_fingerprint(), frozenset(table.ids[rows[is_dropped]].tolist()))
    return replace(table, labels=labels, notes=(*table.notes, note), corrections=before)


def is_filled_in(path: Path) -> bool:
    """Whether the file has corrections, and so must not be overwritten."""
    try:
        return path.is_file() and len(_read_corrections(path)) > 0
    except DataError:  # changed since it was written
        return True


def _read_corrections(path: Path) -> pd.DataFrame:
    """The filled-in rows as text: `line`, `id`, `label`, `corrected_label`."""
    try:
        with path.open(encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            header = file.readline()
        separator = next((s for s in (";", "\t") if s in header), ",")  # label_audit.csv has neither in a column name
        frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"data.label_corrections is {path}, which cannot be read: {error}. "
            "Name the label_audit.csv that you have filled in; a spreadsheet saves it as 'CSV UTF-8'."
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas reads surplus first fields as row names
        raise DataError(
            f"{path} has rows with more fields than the {frame.shape[1]} columns of its header. "
            f"Needed: {', '.join(_COLUMNS)}, as in label_audit.csv; remove the surplus fields."
        )
    frame.columns = frame.columns.str.strip().str.lower()
    missing = [name for name in _COLUMNS if name not in frame]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}. "
            f"Needed: {', '.join(_COLUMNS)}, as in label_audit.csv."
        )
    corrections = pd.DataFrame({name: frame[name].str.strip() for name in _COLUMNS})
    corrections["line"] = np.arange(2, len(frame) + 2)
    return corrections[corrections["corrected_label"] != ""].reset_index(drop=True)


def _parse(corrections: pd.DataFrame, class_names: Mapping[str, int], path: Path) -> np.ndarray:
    """(A,) int64 labels of the corrections other than `drop`."""
    labels = [label_of(value, class_names) for value in corrections["corrected_label"]]
    wrong = corrections[[label is None for label in labels]]
    if len(wrong):
        raise DataError(
            f"{path}: corrected_label is not a label in {len(wrong)} rows: {_show(wrong, 'id', 'corrected_label')}. "
            f"Allowed: 0, 1, {', '.join(class_names)}, {DROP} (removes the row), or empty."
        )
    return np.array(labels, dtype=np.int64)


def _show(rows: pd.DataFrame, *columns: str) -> str:
    """The first rows, with line number and these columns, for a message."""
    shown = [
        f"line {row['line']} ({', '.join(f'{name} {row[name]!r}' for name in columns)})"
        for row in rows.head(_SHOWN).to_dict("records")
    ]
    return "; ".join(shown) + ("; ..." if len(rows) > _SHOWN else "")
