"""Bytes in, uint8 RGB out: the one image reader of training and evaluation."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 200_000_000
# Enough of a file for the header of a photo with EXIF and a thumbnail.
_HEAD_BYTES = 256 * 1024


class UnreadableImageError(Exception):
    """One image cannot be read; the caller decides whether the run can go on without it."""


class ImageSource(Protocol):
    """Where the encoded images of a table lie, by row."""

    def read(self, row: int) -> bytes:
        """The whole encoded image.

        Raises:
            UnreadableImageError: it is missing.
        """
        ...

    def head_and_tail(self, row: int) -> tuple[bytes, bytes]:
        """The first bytes (up to 256 KiB) and the last 16."""
        ...


class FileImages:
    """Images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def read(self, row: int) -> bytes:
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error

    def head_and_tail(self, row: int) -> tuple[bytes, bytes]:
        try:
            with self.paths[row].open("rb") as file:
                head = file.read(_HEAD_BYTES)
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16))
                return head, file.read()
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from error


class ArrowImages:
    """Images embedded in a Hugging Face dataset's image column, as structs of bytes and path."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self.column = column

    def read(self, row: int) -> bytes:
        value: dict[str, Any] | None = self.column[row].as_py()
        if value and value.get("bytes"):
            return bytes(value["bytes"])
        if value and value.get("path"):
            return FileImages([Path(value["path"])]).read(0)
        raise UnreadableImageError("the image is null")

    def head_and_tail(self, row: int) -> tuple[bytes, bytes]:
        data = self.read(row)
        return data[:_HEAD_BYTES], data[-16:]


def decode_image(data: bytes, size: int) -> np.ndarray:
    """(size, size, 3) uint8 RGB: EXIF orientation applied, the whole picture resized with antialiasing.

    Raises:
        UnreadableImageError: not a JPEG, PNG or WebP, damaged, or above 200 million pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            image.draft("RGB", (2 * size, 2 * size))  # JPEG decodes at 1/2, 1/4 or 1/8 where that leaves 2x
            upright = ImageOps.exif_transpose(image)
            return np.asarray(_to_rgb(upright).resize((size, size), Image.Resampling.BICUBIC))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(_reason(error)) from error


def quick_check(source: ImageSource, row: int) -> str | None:
    """Why an image cannot be read, from its first and last bytes; None where nothing is wrong with them."""
    try:
        head, tail = source.head_and_tail(row)
        with Image.open(io.BytesIO(head), formats=FORMATS) as image:
            _check_pixels(image)
            if image.format == "JPEG" and b"\xff\xd9" not in tail:
                return "the JPEG is cut off: it has no end marker"
    except UnreadableImageError as error:
        return str(error)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return _reason(error)
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode in ("I", "I;16", "I;16B", "F"):  # convert() would clip 16 bits to white
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"{image.width}x{image.height} pixels are above the limit of {MAX_PIXELS:,}")


def _reason(error: Exception) -> str:
    text = str(error)
    return f"not a {', '.join(FORMATS)} image" if "cannot identify" in text else text
