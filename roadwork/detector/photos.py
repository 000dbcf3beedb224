"""Photos to predict: files, and images embedded in parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from roadwork.core.errors import DataError
from roadwork.data.columns import find_columns
from roadwork.data.images import UnreadableImageError
from roadwork.data.utils.gps_utils import normalize_gps

# The largest file that is read. Above it is a video or a disk image with a photo's suffix: it would fill the memory.
MAX_BYTES = 1_000_000_000
NO_GPS = (float("nan"), float("nan"))

# Photos that lie encoded in memory at a time: a row group, as files have it, can be gigabytes.
_ROWS_AT_ONCE = 4
_BUFFER_BYTES = 1 << 20
_CAPTURED_AT = "captured_at"


class Photo(NamedTuple):
    """One photo that is still encoded.

    Attributes:
        position: its number among all photos.
        key: by which it is known again in another call.
        name: as the user named it.
        load: gives its bytes; raises OSError or UnreadableImageError.
        gps: latitude, longitude in degrees from a column, NaN where there is none.
        captured_at: from a column; empty where there is none.
    """

    position: int
    key: str
    name: str
    load: Callable[[], bytes]
    gps: tuple[float, float] = NO_GPS
    captured_at: str = ""


class PhotoSource(Protocol):
    """Photos of one kind, in order."""

    def __len__(self) -> int: ...

    def keys(self) -> Iterator[str]:
        """What each is known by."""
        ...

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """Those where `wanted`, (N,) bool, is true, numbered from 0; their bytes are not read ahead."""
        ...


class PhotoFiles:
    """Photos in files of their own.

    Args:
        names: their paths as the user named them, or as they are to be shown.
        keys: their absolute paths.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing; None without.
        captured_at: of each; None without.
    """

    def __init__(
        self,
        names: Sequence[str],
        keys: Sequence[str],
        gps: np.ndarray | None = None,
        captured_at: Sequence[str] | None = None,
    ) -> None:
        self._names, self._keys, self._gps, self._captured_at = names, keys, gps, captured_at

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> Iterator[str]:
        return iter(self._keys)

    def take(self, wanted: Sequence[bool]) -> PhotoFiles:
        """Those where `wanted`, (N,), is true."""
        return PhotoFiles(
            list(compress(self._names, wanted)),
            list(compress(self._keys, wanted)),
            None if self._gps is None else self._gps[np.asarray(wanted)],
            None if self._captured_at is None else list(compress(self._captured_at, wanted)),
        )

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        for row in np.flatnonzero(wanted).tolist():
            gps = NO_GPS if self._gps is None else (float(self._gps[row, 0]), float(self._gps[row, 1]))
            captured_at = "" if self._captured_at is None else self._captured_at[row]
            key = self._keys[row]
            yield Photo(row, key, self._names[row], partial(read_file, key), gps, captured_at)


@dataclass(frozen=True)
class FoundPhotos:
    """All photos of a command, in the order of its inputs, each once.

    Attributes:
        sources: where they lie.
        n_duplicates: named more than once, and left out.
        n_hidden: files and folders whose names begin with a dot, left out.
        n_other: files without a photo's suffix, left out.
    """

    sources: Sequence[PhotoSource]
    n_duplicates: int = 0
    n_hidden: int = 0
    n_other: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def keys(self) -> Iterator[str]:
        """What each is known by."""
        return chain.from_iterable(source.keys() for source in self.sources)

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """Those where `wanted`, (N,) bool, is true."""
        start = 0
        for source in self.sources:
            end = start + len(source)
            for photo in source.photos(wanted[start:end]):
                yield photo._replace(position=start + photo.position)
            start = end


def read_file(path: str) -> bytes:
    """A photo's bytes.

    Raises:
        UnreadableImageError: it is larger than any photo.
    """
    n_bytes = os.stat(path).st_size  # noqa: PTH116 -- a Path of its own costs more than the call, a million times
    if n_bytes > MAX_BYTES:
        raise UnreadableImageError(
            f"it has {n_bytes / 1e9:.1f} GB, and no photo that is read has over {MAX_BYTES:,} bytes"
        )
    return Path(path).read_bytes()


class EmbeddedPhotos:
    """Photos inside a parquet file, as structs of bytes and path; they are read in order, some at a time.

    Args:
        path: of the file.
        column: of the images.
        names: (N,) what each is called.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
        captured_at: (N,) texts, empty where missing.
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
        """Number and image of the rows wanted; row groups without one are not read."""
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
            raise DataError(f"{self._path} cannot be read to its end: {error}. Write the file again.") from error

    def _group(self, file: pq.ParquetFile, group: int) -> Iterator[Any]:
        for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[self._column], use_threads=False):
            yield from batch.column(0)


def open_parquet(path: Path) -> PhotoSource:
    """The photos of a parquet file; of the columns, all but the images are read at once.

    Raises:
        DataError: it cannot be read, has neither images nor their paths, or positions that cannot be used.
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
            f"{path} has the columns {', '.join(names)}: no images (structs of bytes and path), and no column of file "
            "paths named filename, file_name or image_path. Rename yours."
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
    """`find_columns` knows the path of an image by the name that Hugging Face's column has."""
    return "image.path" if name == f"{image}.path" else name


def _read_columns(
    file: pq.ParquetFile, names: Sequence[str], found: Mapping[str, str], image: str | None
) -> pd.DataFrame:
    """The columns found and captured_at, under the names that `_known_as` gives."""
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
            f"{path}: {error} `roadwork predict` finds columns by name alone: mend the values, or rename the column."
        ) from error


def _texts(values: pd.Series | None, n: int) -> list[str]:
    """(N,) texts, empty where missing; moments as ISO 8601."""
    if values is None:
        return [""] * n
    return [
        "" if pd.isna(value) else value.isoformat() if hasattr(value, "isoformat") else str(value)
        for value in values.tolist()
    ]


def _load(value: Mapping[str, Any] | None, folder: Path) -> bytes:
    """The bytes of an image, or of the file that it names."""
    if value is not None and value["bytes"]:
        return bytes(value["bytes"])
    if value is None or not value["path"]:
        raise UnreadableImageError("the image is null")
    return read_file(str(folder / value["path"]))
