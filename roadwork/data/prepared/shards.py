"""Files of a resized copy: folder, manifest, and Arrow shards.

A shard is a standard Arrow file. Only its small columns are read through Arrow, once. Images are then read by offset,
so that thousands of shards need no open file, and a disk error affects a single image.
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

MANIFEST = "manifest.json"
FORMAT_VERSION = 1
SUFFIX = ".arrow"
MAX_ROWS = 512  # per shard: a killed process loses at most this many images
MAX_BYTES = 64 * 2**20  # per shard: bounds the memory

# The copy is larger than `img_size`, so that the final resize still interpolates between original pixels.
RESIZE_MARGIN = 1.15

# At this quality and full chroma resolution, the error is a fraction of a grey level (docs/decisions/0008).
QUALITY = 95

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
        pa.field("jpeg", pa.large_binary(), nullable=False),
    ]
)


class DamagedError(Exception):
    """A shard or an image in it is damaged."""


class Record(NamedTuple):
    """A resized image with its row's id and its photo's identity."""

    id: str
    identity: str
    jpeg: bytes


@dataclass(frozen=True)
class Shard:
    """Metadata of a shard with n images.

    Attributes:
        path: the file.
        ids: ids of the rows.
        identities: `identify_image` of the photos.
        checksums: (n,) uint32, for `read_jpeg`.
        offsets: (n,) int64, byte offset of each image in the file.
        lengths: (n,) int64, size of each image in bytes.
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
    """CRC-32 of an image's id and identity."""
    return zlib.crc32(f"{row_id}\0{identity}".encode())


def write_shard(folder: Path, records: Sequence[Record]) -> Path:
    """Writes a shard atomically and returns its path; the content is verified first, and determines the name."""
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
    """Metadata of a shard.

    Raises:
        DamagedError: the file is not a complete shard.
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
            numbers = (
                checksums.to_numpy().copy(),
                start + ends[:-1],
                np.diff(ends),
            )  # copies, since views would keep the file open
            return Shard(path, ids.to_pylist(), identities.to_pylist(), *numbers)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedError(f"{path} cannot be opened: {error}") from error


def read_jpeg(path: str | Path, offset: int, length: int, key: int, checksum: int) -> bytes:
    """The bytes of an image in a shard.

    Args:
        path: path of the shard.
        offset: byte offset of the image.
        length: size of the image in bytes.
        key: `key_checksum` of the expected image.
        checksum: CRC-32 of the image, started from `key`, so that another row's image fails the check.

    Raises:
        DamagedError: the image cannot be read, or its checksum does not match.
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
        raise DamagedError(f"{path}: a checksum does not match the {length} bytes at offset {offset}")
    return jpeg


def read_all(shard: Shard) -> Iterator[bytes]:
    """The images of a shard, in order.

    Raises:
        DamagedError: an image cannot be read, or its checksum does not match.
    """
    numbers = zip(shard.offsets.tolist(), shard.lengths.tolist(), shard.checksums.tolist(), strict=True)
    for row_id, identity, (offset, length, checksum) in zip(shard.ids, shard.identities, numbers, strict=True):
        yield read_jpeg(shard.path, offset, length, key_checksum(row_id, identity), checksum)


def find_damage(path: Path, short_side: int) -> str | None:
    """The damage found by decoding a whole shard; None if it is intact."""
    try:
        for jpeg in read_all(open_shard(path)):
            height, width, _ = decode_short_side(jpeg, MAX_JPEG_SIDE).shape
            if min(height, width) > short_side:
                return f"{path} has an image of {width}x{height} pixels"
    except (DamagedError, UnreadableImageError) as error:
        return str(error)
    return None


@dataclass(frozen=True)
class Manifest:
    """Dataset and format of a copy.

    Attributes:
        dataset: `dataset_key` of the photos.
        short_side: shorter side of the images in pixels.
        reader: `READER_VERSION` of the code that wrote it.
        format: `FORMAT_VERSION` of the code that wrote it.
        quality: JPEG quality.
        rows: number of images when last completed.
        n_bytes: total size of the shards when last completed.
        unreadable: identities of the photos that could not be read, by row id.
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
        """Writes the manifest atomically into the copy's folder."""
        write_json(folder / MANIFEST, asdict(self))

    @property
    def is_current(self) -> bool:
        """Whether this version of the code would produce the same images."""
        made_by = (self.reader, self.format, self.quality)
        return made_by == (READER_VERSION, FORMAT_VERSION, QUALITY)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if missing or unreadable."""
    try:
        return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def wanted_short_side(data: DataSettings) -> int:
    """Shorter side of the images in pixels: `data.prepared.short_side`, else 1.15 x `data.img_size`, rounded up."""
    return data.prepared.short_side or math.ceil(round(RESIZE_MARGIN * data.img_size, 6))


def wanted_folder(data: DataSettings) -> Path:
    """The folder that `roadwork prepare` writes."""
    if data.prepared.folder:
        return Path(data.prepared.folder)
    return _cached_copies() / f"{dataset_key(data)}-{wanted_short_side(data)}-r{READER_VERSION}"


def candidate_folders(data: DataSettings) -> list[Path]:
    """Folders that may hold a copy of the dataset; the first is the one that `roadwork prepare` writes."""
    wanted = wanted_folder(data)
    if data.prepared.folder:
        return [wanted]
    return [wanted, *(path for path in sorted(_cached_copies().glob(f"{dataset_key(data)}-*")) if path != wanted)]


def shard_paths(folder: Path) -> list[Path]:
    """Paths of a copy's shards, sorted."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _cached_copies() -> Path:
    return cache_folder() / "prepared"
