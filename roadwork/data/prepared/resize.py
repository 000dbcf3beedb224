"""One photo made small: what a process of the pool does."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from roadwork.data.image_identity import identify_image
from roadwork.data.images import MAX_JPEG_SIDE, FileImages, ImageSource, UnreadableImageError, decode_short_side
from roadwork.data.stacked_images import StackedImages

# docs/decisions/0008: at this quality, with the colours at full resolution, the copy costs a fraction of a grey level.
QUALITY = 95
FULL_COLOUR = 0  # Pillow's name for 4:4:4


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


def narrow(source: ImageSource, rows: Sequence[int]) -> tuple[ImageSource, Sequence[int]]:
    """The part of `source` that has these rows, and what they are called in it.

    A million paths would take longer to send to a process than the photos to resize.
    """
    if isinstance(source, StackedImages):
        found = [source.find(row) for row in rows]
        if all(part is found[0][0] for part, _ in found):
            return narrow(found[0][0], [own_row for _, own_row in found])
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
