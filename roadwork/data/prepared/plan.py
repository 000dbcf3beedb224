"""Plans a resized copy and resizes single photos."""

from __future__ import annotations

import io
import logging
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from roadwork.core.errors import DataError
from roadwork.data.images import (
    MAX_JPEG_SIDE,
    FileImages,
    ImageSource,
    StackedImages,
    UnreadableImageError,
    decode_short_side,
    identify_image,
)
from roadwork.data.prepared.copy import CopyIndex, index_copy
from roadwork.data.prepared.shards import QUALITY, Manifest, shard_paths, wanted_folder
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

FULL_COLOUR = 0  # Pillow's value for 4:4:4 chroma subsampling
_N_SAMPLED = 16

# Allows for ids, identities and checksums in the shards, and for sampling error.
_SIZE_MARGIN = 1.1


class ResizedPhoto(NamedTuple):
    """A resized photo, or the reason why there is none.

    Attributes:
        identity: `identify_image` of the photo before it was read, so that a later change is detected.
        jpeg: the encoded image; empty if the photo cannot be read.
        reason: why the photo cannot be read; empty if it can.
    """

    identity: str
    jpeg: bytes
    reason: str


def resize_photo(source: ImageSource, row: int, short_side: int) -> ResizedPhoto:
    """The photo with a shorter side of `short_side` pixels as JPEG, decoded once to verify it."""
    identity = identify_image(source, row)
    try:
        pixels = decode_short_side(source.read(row), short_side)
        jpeg = encode_jpeg(pixels)
        is_whole = decode_short_side(jpeg, MAX_JPEG_SIDE).shape == pixels.shape
    except UnreadableImageError as error:
        return ResizedPhoto(identity, b"", str(error))
    return (
        ResizedPhoto(identity, jpeg, "")
        if is_whole
        else ResizedPhoto(identity, b"", "the resized JPEG has the wrong size")
    )


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """JPEG of (H, W, 3) uint8 RGB pixels, at the quality of the copy."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling=FULL_COLOUR)
    return stream.getvalue()


def resize_photos(source: ImageSource, rows: Sequence[int], short_side: int) -> list[ResizedPhoto]:
    """`resize_photo` of each row, in order."""
    return [resize_photo(source, row, short_side) for row in rows]


def select_rows(source: ImageSource, rows: Sequence[int]) -> tuple[ImageSource, Sequence[int]]:
    """A smaller source with these rows, and their row numbers in it.

    Sending the paths of a whole dataset to a worker would take longer than resizing the photos.
    """
    if isinstance(source, StackedImages):
        found = [source.find(row) for row in rows]
        if all(part is found[0][0] for part, _ in found):
            return select_rows(found[0][0], [own_row for _, own_row in found])
    if isinstance(source, FileImages):
        return FileImages([source.paths[row] for row in rows]), range(len(rows))
    return source, rows


def start_worker() -> None:
    """Sets up a worker: one thread, Ctrl-C left to the parent process, and exit when the parent exits."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()  # otherwise a worker of a killed parent would wait forever
        os._exit(1)


@dataclass(frozen=True)
class CopyPlan:
    """The work to create or update a copy.

    Attributes:
        folder: folder of the copy.
        manifest: dataset and format of the copy.
        table, source: the dataset.
        index: the existing content of the copy.
        rows: rows to resize.
        image_bytes: expected size of a resized image, from a sample.
        free_bytes: free space on the disk.
    """

    folder: Path
    manifest: Manifest
    table: SampleTable
    source: ImageSource
    index: CopyIndex
    rows: np.ndarray
    image_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """Expected size of the rows to resize."""
        return round(_SIZE_MARGIN * self.image_bytes * len(self.rows))

    def check_space(self) -> None:
        """Checks that the copy fits on its disk.

        Raises:
            DataError: the copy does not fit.
        """
        if self.needed_bytes > self.free_bytes:
            raise DataError(
                f"The copy needs about {format_bytes(self.needed_bytes)} more, and the disk of {self.folder} has "
                f"{format_bytes(self.free_bytes)} free. Make room, name a folder on another disk with "
                "data.prepared.folder=DIR, or choose smaller images with data.prepared.short_side=PIXELS."
            )


def format_bytes(n: int) -> str:
    """A size for readers, such as 1.3 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n >= unit:
            return f"{n / unit:,.1f} {name}"
    return f"{n / 1e3:,.1f} kB"


def plan_copy(data: DataSettings, manifest: Manifest, table: SampleTable, source: ImageSource) -> CopyPlan:
    """The rows whose resized image is missing or outdated, and the space that they need.

    Damaged and unused shards are removed, with a message.
    """
    folder = wanted_folder(data)
    index = index_copy(shard_paths(folder), table, source)
    for path, reason in index.damaged.items():
        logger.warning("%s. Its images will be resized again.", reason)
        path.unlink()
    unused = index.unused_shards(table)
    for path in unused:
        path.unlink()
    if unused:
        logger.info("Removed %s shards: their photos have changed or left the dataset.", len(unused))
    rows = np.flatnonzero(~index.has)
    return CopyPlan(
        folder, manifest, table, source, index, rows,
        image_bytes=_sample_bytes(source, rows, manifest.short_side),
        free_bytes=shutil.disk_usage(folder).free,
    )  # fmt: skip


def _sample_bytes(source: ImageSource, rows: np.ndarray, short_side: int) -> int:
    """Mean size of a sample of resized photos, evenly spread over `rows`; 0 if none can be read."""
    sampled = rows[np.linspace(0, len(rows) - 1, min(len(rows), _N_SAMPLED)).astype(int)]
    sizes = [len(resize_photo(source, row, short_side).jpeg) for row in sampled.tolist()]
    return round(float(np.mean([size for size in sizes if size] or [0])))
