"""From a dataset's own columns to a SampleTable: columns found by name, labels and positions checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from roadwork.data.table import SampleTable
from roadwork.data.utils.gps_utils import normalize_gps
from roadwork.errors import DataError

# The names, in order of preference, under which each field is looked for; a nested column counts by its last part.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "filename": ("filename", "file_name", "image_path", "image.path"),
    "label": ("label", "labels"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
    "gps": ("gps", "gps_coordinates"),
    "sequence_id": ("sequence_id", "sequence", "vid_id", "video_id"),
}


def find_columns(names: Sequence[str], overrides: Mapping[str, str]) -> dict[str, str]:
    """Which column holds which field, by name, `overrides` first.

    Raises:
        DataError: an override names an unknown field or a column that is not there.
    """
    found: dict[str, str] = {}
    for field, column in overrides.items():
        if field not in COLUMN_NAMES:
            raise DataError(f"data.columns.{field} is not a field. Allowed: {', '.join(COLUMN_NAMES)}.")
        if column not in names:
            raise DataError(f"data.columns.{field} names the column {column!r}; the dataset has {', '.join(names)}.")
        found[field] = column
    for field, candidates in COLUMN_NAMES.items():
        if field in found:
            continue
        by_name = {name.lower(): name for name in reversed(names)}
        by_last_part = {name.lower().rpartition(".")[2]: name for name in reversed(names) if "." in name}
        match = next((by_name[c] for c in candidates if c in by_name), None)
        match = match or next((by_last_part[c] for c in candidates if c in by_last_part), None)
        if match is not None and match not in found.values():
            found[field] = match
    return found


def parse_labels(
    values: Sequence[object], class_names: Mapping[str, int], row_names: Sequence[str]
) -> np.ndarray:
    """(N,) int64 labels from 0/1 numbers or class names.

    Raises:
        DataError: anything else, with the rows and their values.
    """
    known: dict[str, int] = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, **class_names}
    series = pd.Series(list(values), dtype=object).map(lambda v: known.get(str(v).strip()))
    bad = np.flatnonzero(series.isna().to_numpy())
    if len(bad):
        shown = ", ".join(f"{row_names[i]}: {values[i]!r}" for i in bad[:5])
        raise DataError(
            f"{len(bad)} rows have a label that is neither 0 or 1 nor a known class name ({shown}). "
            f"Known names: {dict(class_names)}; change them with data.class_names, or mend or remove these rows."
        )
    return series.to_numpy(dtype=np.int64)


def table_from_frame(
    frame: pd.DataFrame, columns: Mapping[str, str], class_names: Mapping[str, int], *, source: str
) -> SampleTable:
    """The sample table of a metadata frame.

    Args:
        frame: one row an image; no image column.
        columns: field to column, from `find_columns`; `label` must be there.
        class_names: label names to 0 and 1.
        source: names the dataset in messages.
    """
    if len(frame) == 0:
        raise DataError(f"{source} has no rows. A dataset needs at least one image with a label.")
    if "label" not in columns:
        raise DataError(
            f"{source} has no label column; it has {', '.join(map(str, frame.columns))}. Name yours with data.columns.label=NAME."
        )
    filenames = _strings(frame, columns.get("filename"))
    ids, id_note = _ids(frame, columns, filenames)
    row_names = [f"row {i} ({name or ids[i]})" for i, name in enumerate(filenames)]
    gps = normalize_gps(
        *(frame[columns[f]].tolist() if f in columns else None for f in ("latitude", "longitude", "gps")), row_names
    )
    used = set(columns.values())
    slices = frame[[c for c in frame.columns if c not in used]].reset_index(drop=True)
    found = ", ".join(f"{field}={column}" for field, column in columns.items())
    return SampleTable(
        ids=ids,
        filenames=filenames,
        labels=parse_labels(frame[columns["label"]].tolist(), class_names, row_names),
        gps=gps.coordinates,
        sequence_ids=_strings(frame, columns.get("sequence_id")),
        slices=slices,
        notes=(f"{source}: {len(frame):,} rows; columns {found}; {id_note}.", *gps.notes),
    )


def _strings(frame: pd.DataFrame, column: str | None) -> np.ndarray:
    """(N,) str array of a column, empty where it is missing."""
    if column is None:
        return np.full(len(frame), "", dtype=object)
    values = frame[column]
    return np.where(values.isna(), "", values.astype(str)).astype(object)


def _ids(frame: pd.DataFrame, columns: Mapping[str, str], filenames: np.ndarray) -> tuple[np.ndarray, str]:
    if "id" in columns:
        ids = _strings(frame, columns["id"])
        missing = np.flatnonzero(ids == "")
        if len(missing):
            raise DataError(f"The column {columns['id']} is empty in {len(missing)} rows, first row {missing[0]}. Each row needs an id.")
        return ids, f"ids from {columns['id']}"
    if (filenames != "").all() and len(set(filenames)) == len(filenames):
        return filenames, "ids are the file names"
    return np.array([f"{i:08d}" for i in range(len(frame))], dtype=object), "ids are row numbers, since file names are missing or repeated"
