"""Files of a resized copy: folder, manifest, and Arrow shards.

Any Arrow reader opens one. Here only the small columns are read that way, once; a picture is then read by its place in
the file, so that thousands of shards need no open file, and a failing disk is an error of one picture.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from roadwork.core.files import atomic_path, cache_folder, write_json
from roadwork.data.images import (
    MAX_JPEG_SIDE,
    READER_VERSION,
    UnreadableImageError,
    decode_short_side,
)
from roadwork.data.source import dataset_key
from roadwork.settings import DataSettings

SUFFIX = ".arrow"
MAX_ROWS = 512  # what a kill loses at most,
MAX_BYTES = 64 * 2**20  # and what is held in memory
_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("id", pa.string()),
            ("identity", pa.string()),
            ("checksum", pa.uint32()),
            ("jpeg", pa.large_binary()),
        )
    ]
)
MANIFEST = "manifest.json"
FORMAT_VERSION = 1

# Room for the resize to `img_size` to interpolate: at exactly `img_size` it would be that of the copy alone.
RESIZE_MARGIN = 1.15

# docs/decisions/0008: at this quality, with the colours at full resolution, the copy costs a fraction of a grey level.
QUALITY = 95


class DamagedError(Exception):
    """A shard or a picture in it is not what was written."""


class Record(NamedTuple):
    """A picture to be kept: its row's id, its photo's identity, its bytes."""

    id: str
    identity: str
    jpeg: bytes


@dataclass(frozen=True)
class Shard:
    """What a shard holds, without the pictures; n of them, aligned.

    Attributes:
        path: the file.
        ids: of the rows.
        identities: of the photos, as `identify_image` gave them.
        checksums: (n,) uint32, as `read_jpeg` takes them.
        offsets: (n,) int64, where a picture begins in the file, in bytes.
        lengths: (n,) int64, its bytes.
    """

    path: Path
    ids: list[str]
    identities: list[str]
    checksums: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def key_checksum(row_id: str, identity: str) -> int:
    """CRC-32 of what names a picture."""
    return zlib.crc32(f"{row_id}\0{identity}".encode())


def write_shard(folder: Path, records: Sequence[Record]) -> Path:
    """Writes a shard atomically, read back and checked before it takes its name, which follows from its content."""
    checksums = [zlib.crc32(record.jpeg, key_checksum(record.id, record.identity)) for record in records]
    columns = [[record.id for record in records], [record.identity for record in records], checksums]
    batch = pa.record_batch([*columns, [record.jpeg for record in records]], schema=_SCHEMA)
    name = hashlib.sha256(repr((*columns,)).encode()).hexdigest()[:16]
    path = folder / f"{name}{SUFFIX}"
    with atomic_path(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            writer.write_batch(batch)
        for _ in read_all(open_shard(temporary)):
            pass
    return path


def open_shard(path: Path) -> Shard:
    """Reads a shard's small columns.

    Raises:
        DamagedError: it is not a whole shard.
    """
    try:
        with pa.memory_map(str(path)) as file:
            whole = file.read_buffer()
            reader = pa.ipc.open_file(pa.BufferReader(whole))
            if reader.schema != _SCHEMA or reader.num_record_batches != 1:
                raise DamagedError(f"{path} does not have the columns of a shard")
            batch = reader.get_batch(0)
            batch.validate(full=True)
            ids, identities, checksums, jpegs = batch.columns
            _, bounds, content = jpegs.buffers()
            ends = np.frombuffer(bounds, np.int64, len(batch) + 1)
            start = content.address - whole.address
            numbers = (checksums.to_numpy().copy(), start + ends[:-1], np.diff(ends))  # no view keeps the file open
            return Shard(path, ids.to_pylist(), identities.to_pylist(), *numbers)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedError(f"{path} cannot be opened: {error}") from error


def read_jpeg(path: str | Path, offset: int, length: int, key: int, checksum: int) -> bytes:
    """A picture by its place in a shard.

    Args:
        path: of the shard.
        offset: where it begins, in bytes.
        length: its bytes.
        key: the `key_checksum` of what must lie there.
        checksum: of the picture, begun with `key`, so that the bytes of another row do not pass.

    Raises:
        DamagedError: it cannot be read, or the checksum does not fit.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            jpeg = os.pread(file, length, offset)
        finally:
            os.close(file)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {error.strerror}") from error
    if zlib.crc32(jpeg, key) != checksum:
        raise DamagedError(f"{path}: a checksum does not fit the {length} bytes from {offset}")
    return jpeg


def read_all(shard: Shard) -> Iterator[bytes]:
    """Its pictures, in order.

    Raises:
        DamagedError: one cannot be read, or its checksum does not fit.
    """
    numbers = zip(shard.offsets.tolist(), shard.lengths.tolist(), shard.checksums.tolist(), strict=True)
    for row_id, identity, (offset, length, checksum) in zip(shard.ids, shard.identities, numbers, strict=True):
        yield read_jpeg(shard.path, offset, length, key_checksum(row_id, identity), checksum)


def find_damage(path: Path, short_side: int) -> str | None:
    """Why a shard must be made again, found by decoding all of it; None where it is whole."""
    try:
        for jpeg in read_all(open_shard(path)):
            height, width, _ = decode_short_side(jpeg, MAX_JPEG_SIDE).shape
            if min(height, width) > short_side:
                return f"{path} has a picture of {width}x{height} pixels"
    except (DamagedError, UnreadableImageError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Manifest:
    """What a copy is of, and how it was made.

    Attributes:
        dataset: `dataset_key` of its photos.
        short_side: pixels of its pictures' shorter side.
        reader: `READER_VERSION` of the code that made it.
        format: `FORMAT_VERSION` likewise.
        quality: of its JPEGs.
        rows: pictures it held when it was last finished.
        n_bytes: of their files.
        unreadable: rows whose photos could not be read: id to the photo's identity.
    """

    dataset: str
    short_side: int
    reader: int = READER_VERSION
    format: int = FORMAT_VERSION
    quality: int = QUALITY
    rows: int = 0
    n_bytes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes it into the copy's folder, atomically."""
        write_json(folder / MANIFEST, asdict(self))

    @property
    def is_current(self) -> bool:
        """Whether this version of the code would make the same pictures."""
        made_by = (self.reader, self.format, self.quality)
        return made_by == (READER_VERSION, FORMAT_VERSION, QUALITY)


def read_manifest(folder: Path) -> Manifest | None:
    """A copy's manifest; None where the folder has none that can be read."""
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def wanted_short_side(data: DataSettings) -> int:
    """Pixels of the copy's shorter side: `data.prepared.short_side`, else 1.15 x `data.img_size`, rounded up."""
    return data.prepared.short_side or math.ceil(round(RESIZE_MARGIN * data.img_size, 6))


def wanted_folder(data: DataSettings) -> Path:
    """Where `roadwork prepare` writes."""
    if data.prepared.folder:
        return Path(data.prepared.folder)
    return _cached_copies() / f"{dataset_key(data)}-{wanted_short_side(data)}-r{READER_VERSION}"


def candidate_folders(data: DataSettings) -> list[Path]:
    """The folders that may hold a copy of the dataset, the one that `roadwork prepare` writes first."""
    wanted = wanted_folder(data)
    if data.prepared.folder:
        return [wanted]
    return [wanted, *(path for path in sorted(_cached_copies().glob(f"{dataset_key(data)}-*")) if path != wanted)]


def shard_paths(folder: Path) -> list[Path]:
    """The shards of a copy."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _cached_copies() -> Path:
    return cache_folder() / "prepared"
