"""Maps a dataset's columns to a SampleTable, and checks labels and positions."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.data.images import ImageSource
from roadwork.data.table import SampleTable
from roadwork.data.utils.exif import read_exif_gps_table
from roadwork.data.utils.geo import find_exchanged
from roadwork.data.utils.gps_utils import normalize_gps

logger = logging.getLogger(__name__)

# The column names of each field, in order of preference; a nested column matches by its last part.
COLUMN_NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "filename": ("filename", "file_name", "image_path", "image.path"),
    "label": ("label", "labels"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon", "lng"),
    "gps": ("gps", "gps_coordinates"),
    "sequence_id": ("sequence_id", "sequence", "vid_id", "video_id"),
}
POSITION_FIELDS = ("latitude", "longitude", "gps")
_LABEL_WORDS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_SHOWN = 5


def find_columns(names: Sequence[str], overrides: Mapping[str, str], *, key: str = "data") -> dict[str, str]:
    """The column of each field, found by name unless `overrides` names it.

    Args:
        names: names of the dataset's columns.
        overrides: field to column.
        key: configuration key of the dataset, for messages.

    Raises:
        DataError: an override names an unknown field or a missing column.
    """
    for field, column in overrides.items():
        if field not in COLUMN_NAMES:
            raise DataError(f"{key}.columns.{field} is not a field. Allowed: {', '.join(COLUMN_NAMES)}.")
        if column not in names:
            raise DataError(
                f"{key}.columns.{field} names the column {column!r}; the dataset has {', '.join(names)}. "
                "Name one of these, or omit the key to find the column by name."
            )
    found = dict(overrides)
    by_name = {name.lower(): name for name in reversed(names)}
    by_last_part = {name.lower().rpartition(".")[2]: name for name in reversed(names)}
    for field, candidates in COLUMN_NAMES.items():
        # The file name column may also be the id; no other column serves two fields.
        taken = {column for other, column in found.items() if other != "id"}
        matches = [known[c] for known in (by_name, by_last_part) for c in candidates if c in known]
        free = [column for column in matches if column not in taken]
        if field not in found and free:
            found[field] = free[0]
    return {field: found[field] for field in COLUMN_NAMES if field in found}


def has_position(columns: Mapping[str, str]) -> bool:
    """Whether the found columns, field to column, have positions."""
    return not columns.keys().isdisjoint(POSITION_FIELDS)


def label_of(value: Any, class_names: Mapping[str, int]) -> int | None:
    """0 or 1 for a class name, a number, true, false, yes or no; None for anything else, including missing values."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None  # before str(), which would turn None into the class name
    text = str(value).strip()
    return class_names.get(text, _LABEL_WORDS.get(text.lower()))


def parse_labels(
    values: Sequence[object], class_names: Mapping[str, int], row_names: Sequence[str], *, key: str = "data"
) -> np.ndarray:
    """(N,) int64 labels from 0/1 numbers or class names.

    Raises:
        DataError: a label is anything else; the message shows the first rows.
    """
    labels = [label_of(value, class_names) for value in values]
    bad = [row for row, label in enumerate(labels) if label is None]
    if bad:
        shown = "; ".join(f"{row_names[row]}: {values[row]!r}" for row in bad[:_SHOWN])
        raise DataError(
            f"{len(bad)} of {len(labels)} rows have a label that is missing or unknown, first: {shown}. "
            f"Allowed: 0, 1, true, false, yes, no, and the class names {dict(class_names)}. "
            f"Set others with {key}.class_names, or fix or remove these rows."
        )
    return np.array(labels, dtype=np.int64)


def table_from_frame(
    frame: pd.DataFrame, columns: Mapping[str, str], class_names: Mapping[str, int], *, source: str, key: str = "data"
) -> SampleTable:
    """The sample table of a metadata frame.

    Args:
        frame: one row per image; no image column.
        columns: field to column, from `find_columns`; `label` is required.
        class_names: label names to 0 and 1.
        source: name of the dataset for messages.
        key: configuration key of the dataset, for messages.

    Raises:
        DataError: no rows, no labels, or unusable labels, ids or positions.
    """
    if len(frame) == 0:
        raise DataError(f"{source} has no rows. A dataset needs at least one image with a label.")
    if "label" not in columns:
        raise DataError(
            f"{source} has no label column; it has {', '.join(map(str, frame.columns))}. "
            f"Name yours with {key}.columns.label=NAME."
        )
    filenames = _strings(frame, columns.get("filename"))
    ids, id_note = _ids(frame, columns, filenames, key)
    row_names = [f"row {i} ({name or ids[i]})" for i, name in enumerate(filenames)]
    latitude, longitude, text = (
        frame[columns[field]].tolist() if field in columns else None for field in POSITION_FIELDS
    )
    gps = normalize_gps(latitude, longitude, text, row_names)
    if len(exchanged := find_exchanged(gps.coordinates, gps.coordinates)):
        logger.warning(
            "%s: latitude and longitude of %s of %s rows are probably exchanged, first %s: %s. More rows are near the "
            "exchanged position than near the written one. Check them.",
            *(source, f"{len(exchanged):,}", f"{len(frame):,}", row_names[exchanged[0]]),
            "{:g}, {:g}".format(*gps.coordinates[exchanged[0]]),
        )
    used = set(columns.values())
    found = ", ".join(f"{field}={column}" for field, column in columns.items())
    return SampleTable(
        ids=ids,
        filenames=filenames,
        labels=parse_labels(frame[columns["label"]].tolist(), class_names, row_names, key=key),
        gps=gps.coordinates,
        sequence_ids=_strings(frame, columns.get("sequence_id")),
        slices=frame[[c for c in frame.columns if c not in used]].reset_index(drop=True),
        notes=(f"{source}: {len(frame):,} rows; columns {found}; {id_note}.", *gps.notes),
    )


def fill_gps_from_photos(table: SampleTable, source: ImageSource, *, has_columns: bool) -> SampleTable:
    """The table with the EXIF or XMP positions of the photos in rows without a position.

    Args:
        table: N rows.
        source: their images.
        has_columns: whether the dataset has columns of positions, for the note.
    """
    rows = np.flatnonzero(~table.has_gps)
    if not len(rows):
        return table
    latitude, longitude = read_exif_gps_table(source, rows.tolist()).T
    gps = normalize_gps(latitude, longitude, None, table.filenames[rows])
    n_found = len(rows) - gps.n_missing
    filled = table.gps.copy()
    filled[rows] = gps.coordinates
    if has_columns:
        note = f"{n_found:,} of {len(rows):,} rows with blank GPS columns have GPS in the EXIF of their photo."
    else:
        note = f"No GPS columns: {n_found:,} of {len(rows):,} photos have GPS in their EXIF."
    return replace(table, gps=filled, notes=(*table.notes, note, *gps.notes[1:]))


def _strings(frame: pd.DataFrame, column: str | None) -> np.ndarray:
    """(N,) str array of a column, empty where it is missing."""
    if column is None:
        return np.full(len(frame), "", dtype=object)
    values = frame[column]
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # 12, not 12.0: pandas makes whole numbers floats if one is missing
    return np.where(values.isna(), "", values.astype(str)).astype(object)


def _ids(frame: pd.DataFrame, columns: Mapping[str, str], filenames: np.ndarray, key: str) -> tuple[np.ndarray, str]:
    if "id" in columns:
        ids = _strings(frame, columns["id"])
        missing = np.flatnonzero(ids == "")
        if len(missing):
            raise DataError(
                f"The column {columns['id']} is empty in {len(missing)} rows, first row {missing[0]}. "
                f"Each row needs an id: fill it in, or map another column with {key}.columns.id=NAME."
            )
        return ids, f"ids from {columns['id']}"
    if (filenames != "").all() and len(set(filenames)) == len(filenames):
        return filenames, "ids are the file names"
    row_numbers = np.array([f"{i:08d}" for i in range(len(frame))], dtype=object)
    return row_numbers, "ids are row numbers, because file names are missing or repeated"
