"""What `roadwork prepare` has to do, and how it resizes one photo."""

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

FULL_COLOUR = 0  # Pillow's name for 4:4:4
_N_SAMPLED = 16

# An image's id, identity and checksum in its shard, and the spread of a sample's mean.
_SIZE_MARGIN = 1.1


class ResizedPhoto(NamedTuple):
    """A photo's resized picture, or why there is none.

    Attributes:
        identity: what `identify_image` said of the photo before it was read, so that a later change is noticed.
        jpeg: the encoded picture; empty where the photo cannot be read.
        reason: why it cannot be read; empty where it can.
    """

    identity: str
    jpeg: bytes
    reason: str


def resize_photo(source: ImageSource, row: int, short_side: int) -> ResizedPhoto:
    """Reads a photo, makes its shorter side `short_side` pixels, encodes it and reads the result back."""
    identity = identify_image(source, row)
    try:
        pixels = decode_short_side(source.read(row), short_side)
        jpeg = encode_jpeg(pixels)
        is_whole = decode_short_side(jpeg, MAX_JPEG_SIDE).shape == pixels.shape
    except UnreadableImageError as error:
        return ResizedPhoto(identity, b"", str(error))
    return ResizedPhoto(identity, jpeg, "") if is_whole else ResizedPhoto(identity, b"", "its size came out wrong")


def encode_jpeg(pixels: np.ndarray) -> bytes:
    """The JPEG that the copy keeps of (H, W, 3) uint8 RGB."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=QUALITY, subsampling=FULL_COLOUR)
    return stream.getvalue()


def resize_photos(source: ImageSource, rows: Sequence[int], short_side: int) -> list[ResizedPhoto]:
    """`resize_photo` of some rows, in order."""
    return [resize_photo(source, row, short_side) for row in rows]


def select_rows(source: ImageSource, rows: Sequence[int]) -> tuple[ImageSource, Sequence[int]]:
    """The part of `source` that has these rows, and what they are called in it.

    A million paths would take longer to send to a process than the photos to resize.
    """
    if isinstance(source, StackedImages):
        found = [source.find(row) for row in rows]
        if all(part is found[0][0] for part, _ in found):
            return select_rows(found[0][0], [own_row for _, own_row in found])
    if isinstance(source, FileImages):
        return FileImages([source.paths[row] for row in rows]), range(len(rows))
    return source, rows


def start_worker() -> None:
    """Works on one thread, leaves Ctrl-C to the process that started this one, and ends with it however it ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()  # a worker of a killed process would else wait for ever
        os._exit(1)


@dataclass(frozen=True)
class CopyPlan:
    """A copy that is to be made, or to be brought up to date.

    Attributes:
        folder: of the copy.
        manifest: what it is of, and how it is made.
        table, source: the dataset.
        index: what the copy holds already.
        rows: those to do.
        image_bytes: bytes a resized image is likely to take, from a sample.
        free_bytes: on the disk.
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
        """What the rows to do are likely to take on the disk."""
        return round(_SIZE_MARGIN * self.image_bytes * len(self.rows))

    def check_space(self) -> None:
        """Whether the copy fits on its disk.

        Raises:
            DataError: it does not.
        """
        if self.needed_bytes > self.free_bytes:
            raise DataError(
                f"The copy needs about {format_bytes(self.needed_bytes)} more, and the disk of {self.folder} has "
                f"{format_bytes(self.free_bytes)} free. Make room, name a folder on another disk with "
                "data.prepared.folder=DIR, or make smaller images with data.prepared.short_side=PIXELS."
            )


def format_bytes(n: int) -> str:
    """Bytes for people to read, such as 1.3 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n >= unit:
            return f"{n / unit:,.1f} {name}"
    return f"{n / 1e3:,.1f} kB"


def plan_copy(data: DataSettings, manifest: Manifest, table: SampleTable, source: ImageSource) -> CopyPlan:
    """Finds the rows whose picture is missing, or not of the photo of today, and what they will take.

    Shards that are damaged, or of no more use, are removed and named.
    """
    folder = wanted_folder(data)
    index = index_copy(shard_paths(folder), table, source)
    for path, reason in index.damaged.items():
        logger.warning("%s: its images are made again.", reason)
        path.unlink()
    unused = index.unused_shards(table)
    for path in unused:
        path.unlink()
    if unused:
        logger.info("%s shards were removed: their photos have changed, or are in the dataset no more.", len(unused))
    rows = np.flatnonzero(~index.has)
    return CopyPlan(
        folder, manifest, table, source, index, rows,
        image_bytes=_sample_bytes(source, rows, manifest.short_side),
        free_bytes=shutil.disk_usage(folder).free,
    )  # fmt: skip


def _sample_bytes(source: ImageSource, rows: np.ndarray, short_side: int) -> int:
    """Mean bytes of some resized photos, spread over `rows`; 0 where none can be read."""
    sampled = rows[np.linspace(0, len(rows) - 1, min(len(rows), _N_SAMPLED)).astype(int)]
    sizes = [len(resize_photo(source, row, short_side).jpeg) for row in sampled.tolist()]
    return round(float(np.mean([size for size in sizes if size] or [0])))
