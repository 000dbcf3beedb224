"""Photos to predict from a parquet file: embedded images, or file paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from roadwork.core.errors import DataError
from roadwork.data.columns import find_columns
from roadwork.data.images import UnreadableImageError
from roadwork.data.utils.gps_utils import normalize_gps
from roadwork.detector.photos import Photo, PhotoFiles, PhotoSource, read_file

# Encoded photos in memory at a time, because a whole row group can be gigabytes.
_ROWS_AT_ONCE = 4
_BUFFER_BYTES = 1 << 20
_CAPTURED_AT = "captured_at"


class EmbeddedPhotos:
    """Photos embedded in a parquet file, as structs of bytes and path; they are read in order, in batches.

    Args:
        path: path of the file.
        column: name of the image column.
        names: (N,) names for people.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
        captured_at: (N,) times as text, empty where missing.
    """

    def __init__(
        self, path: Path, column: str, names: Sequence[str], gps: np.ndarray, captured_at: Sequence[str]
    ) -> None:
        self._path, self._column = path, column
        self._names, self._gps, self._captured_at = names, gps, captured_at
        self._real_path = os.path.realpath(path)

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> Iterator[str]:
        return (self._key(row) for row in range(len(self)))

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        for row, value in self._images(wanted):
            gps = float(self._gps[row, 0]), float(self._gps[row, 1])
            load = partial(_load, value.as_py(), self._path.parent)
            yield Photo(row, self._key(row), self._names[row], load, gps, self._captured_at[row])

    def _key(self, row: int) -> str:
        return f"{self._real_path}#{row}"

    def _images(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Number and image of each wanted row; row groups without a wanted row are not read."""
        try:
            with pq.ParquetFile(self._path, buffer_size=_BUFFER_BYTES) as file:
                start = 0
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    if wanted[start:end].any():
                        for row, value in enumerate(self._group(file, group), start):
                            if wanted[row]:
                                yield row, value
                    start = end
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self._path} cannot be read completely: {error}. Write the file again.") from error

    def _group(self, file: pq.ParquetFile, group: int) -> Iterator[Any]:
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False):
            yield from batch.column(0)


def open_parquet(path: Path) -> PhotoSource:
    """The photos of a parquet file; all columns except the images are read at once.

    Raises:
        DataError: it cannot be read, has neither images nor paths, or has unusable positions.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            images = [field.name for field in schema if _is_image(field.type)]
            image = "image" if "image" in images else (images or [None])[0]
            names = [name for name in schema.empty_table().flatten().column_names if name != f"{image}.bytes"]
            found = find_columns([_known_as(name, image) for name in names], {})
            frame = _read_columns(file, names, found, image)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {error}.") from error
    if image is None and "filename" not in found:
        raise DataError(
            f"{path} has the columns {', '.join(names)}. Needed: an image column (structs of bytes and path), or a "
            "column of file paths named filename, file_name or image_path. Rename yours."
        )
    gps = _positions(frame, found, path)
    captured_at = _texts(frame.get(_CAPTURED_AT), len(frame))
    filenames, ids = (_texts(frame.get(found.get(field, "")), len(frame)) for field in ("filename", "id"))
    if image is None:
        keys = [os.path.realpath(path.parent / name) for name in filenames]
        return PhotoFiles(filenames, keys, gps, captured_at)
    shown = [name or text or f"{path}#{row}" for row, (name, text) in enumerate(zip(filenames, ids, strict=True))]
    return EmbeddedPhotos(path, image, shown, gps, captured_at)


def _is_image(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}


def _known_as(name: str, image: str | None) -> str:
    """The column name that `find_columns` recognises: that of Hugging Face for the path of an image."""
    return "image.path" if name == f"{image}.path" else name


def _read_columns(
    file: pq.ParquetFile, names: Sequence[str], found: Mapping[str, str], image: str | None
) -> pd.DataFrame:
    """The found columns and captured_at, named by `_known_as`."""
    used = {found[field] for field in ("id", "filename", "latitude", "longitude", "gps") if field in found}
    chosen = [name for name in names if _known_as(name, image) in used or name.lower() == _CAPTURED_AT]
    table = file.read(columns=chosen).flatten() if chosen else pa.table({"": np.zeros(file.metadata.num_rows)})
    frame: pd.DataFrame = table.to_pandas()
    return frame.rename(columns=lambda name: _CAPTURED_AT if name.lower() == _CAPTURED_AT else _known_as(name, image))


def _positions(frame: pd.DataFrame, found: Mapping[str, str], path: Path) -> np.ndarray:
    latitude, longitude, text = (
        frame[found[field]].tolist() if field in found else None for field in ("latitude", "longitude", "gps")
    )
    try:
        return normalize_gps(latitude, longitude, text, [f"row {row}" for row in range(len(frame))]).coordinates
    except DataError as error:
        raise DataError(
            f"{path}: {error} `roadwork predict` finds columns by name only: fix the values, or rename the column."
        ) from error


def _texts(values: pd.Series | None, n: int) -> list[str]:
    """(N,) texts, empty where missing; times are in ISO 8601."""
    if values is None:
        return [""] * n
    return [
        "" if pd.isna(value) else value.isoformat() if hasattr(value, "isoformat") else str(value)
        for value in values.tolist()
    ]


def _load(value: Mapping[str, Any] | None, folder: Path) -> bytes:
    """The bytes of an image, from the column or from the file at its path."""
    if value is not None and value["bytes"]:
        return bytes(value["bytes"])
    if value is None or not value["path"]:
        raise UnreadableImageError("the image is null")
    return read_file(str(folder / value["path"]))
