"""Reads photos: bytes in, uint8 RGB out, and from there to the network input."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor
from torch.nn import functional

from roadwork.data.formats import (
    FORMAT_NAMES,
    HAS_HEIF,
    HEIF_INSTALL,
    N_SIGNATURE_BYTES,
    TruncatedError,
    complete_images_only,
    format_of,
    has_whole_boxes,
)
from roadwork.models.processor import ImageStatistics

# torch needs a copy of the pixels. Above this number Pillow resizes instead: only formats without a reduced decode are
# so large here, and two more copies in each worker may not fit in memory.
MAX_COPIED_PIXELS = 32_000_000
MAX_PIXELS = 200_000_000
MAX_JPEG_SIDE = 65_000

# Increases whenever the same bytes give other pixels, so that copies and features of an older reader are not used.
READER_VERSION = 1

# A JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 that is at least this many times the wanted size.
TRAINING_SCALE = 1
EVALUATION_SCALE = 2
N_END_BYTES = 16

# How each EXIF orientation is turned upright (as in PIL.ImageOps.exif_transpose).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = (5, 6, 7, 8)  # these exchange width and height
_TURNED_BY_DECODER = ("HEIF", "TIFF")  # their size and pixels are upright already
UNREADABLE = "unreadable"
_NO_IMAGE = f"it is not a {FORMAT_NAMES} image, or damaged"


def resize_antialiased(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 of an RGB image, bicubic; `size` is width and height in pixels.

    torch implements Pillow's algorithm in integers, so the result is the same on every CPU. The two differ by 1 of 255
    in a few pixels.
    """
    if image.size == size or image.width * image.height > MAX_COPIED_PIXELS:
        return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = functional.interpolate(pixels, size=size[::-1], mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


# Pillow's default limit would refuse the photos of a 200-megapixel phone.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


Size = tuple[int, int]  # width, height


class UnreadableImageError(Exception):
    """An image cannot be read; the caller decides whether to continue without it."""


@dataclass(frozen=True)
class UnreadableImage:
    """Placeholder for an image that cannot be read; `collate` drops it from the batch and reports it."""

    row: int
    reason: str


class ImageEnds(NamedTuple):
    """The first and last 16 bytes and the size of an encoded image, which show whether it is complete."""

    first: bytes
    last: bytes
    n_bytes: int


class ImageSource(Protocol):
    """The encoded images of a table, by row.

    Both methods raise `UnreadableImageError` if the image is missing.
    """

    def read(self, row: int) -> bytes:
        """The whole encoded image."""
        ...

    def read_ends(self, row: int) -> ImageEnds:
        """The first and last bytes and the size, without reading the rest."""
        ...


class FileImages:
    """Images in files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def read(self, row: int) -> bytes:
        try:
            return self.paths[row].read_bytes()
        except OSError as error:
            raise UnreadableImageError(f"{self.paths[row]}: {error.strerror or error}") from error

    def read_ends(self, row: int) -> ImageEnds:
        try:
            with self.paths[row].open("rb") as file:
                first = file.read(N_END_BYTES)
                n_bytes = file.seek(0, os.SEEK_END)
                file.seek(max(0, n_bytes - N_END_BYTES))
                return ImageEnds(first, file.read(), n_bytes)
        except OSError as error:
            raise UnreadableImageError(f"{self.paths[row]}: {error.strerror or error}") from error


def open_image(file: BinaryIO) -> ImageFile.ImageFile:
    """An encoded photo, opened with Pillow: its header is read, and its pixels are not decoded yet.

    Raises:
        UnreadableImageError: it has none of the formats, or Pillow cannot read its header.
    """
    first = file.read(N_SIGNATURE_BYTES)
    file.seek(0)
    _check_format(first)
    try:
        return Image.open(file, formats=[format_of(first)])
    except Exception as error:  # decoders raise nearly anything on damaged data: OS, syntax, value, struct, EOF errors
        raise UnreadableImageError(_reason(error)) from error


def _check_format(first: bytes) -> None:
    name = format_of(first)
    if not name:
        raise UnreadableImageError(_NO_IMAGE)
    if name == "HEIF" and not HAS_HEIF:
        raise UnreadableImageError(f"HEIC needs the package pillow-heif: {HEIF_INSTALL}")


def decode_image(data: bytes, size: int, scale: int = EVALUATION_SCALE) -> np.ndarray:
    """(size, size, 3) uint8 RGB: the whole image, resized with antialiasing and rotated upright by its EXIF data.

    Args:
        data: an encoded photo in one of the formats of `roadwork.data.formats`.
        size: in pixels.
        scale: `EVALUATION_SCALE` for validation and prediction; `TRAINING_SCALE` is faster and slightly coarser.

    Raises:
        UnreadableImageError: in another format, damaged, or above 200 million pixels. A damaged JPEG that still decodes
            is not detected: the format has no checksum.
    """
    return _decode(data, lambda _: (size, size), scale)


def decode_short_side(data: bytes, short_side: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB: the whole image upright, with a shorter side of `short_side` pixels and the same aspect.

    A smaller image keeps its size.

    Args:
        data: see `decode_image`, which gives nearly the same pixels from the result as from `data`.
        short_side: in pixels.

    Raises:
        UnreadableImageError: as for `decode_image`.
    """
    return _decode(data, lambda stored: _fit_short_side(stored, short_side), EVALUATION_SCALE)


def _fit_short_side(stored: Size, short_side: int) -> Size:
    shrink = min(1.0, short_side / min(stored))
    # A side above JPEG's limit is squashed.
    width, height = (min(MAX_JPEG_SIDE, max(1, round(side * shrink))) for side in stored)
    return width, height


def _decode(data: bytes, choose_size: Callable[[Size], Size], scale: int) -> np.ndarray:
    """`choose_size` maps the stored width and height to the wanted ones, before any rotation."""
    try:
        with complete_images_only, open_image(io.BytesIO(data)) as image:
            _check_pixels(image)
            width, height = choose_size(image.size)
            if image.format in ("HEIF", "AVIF"):
                has_whole_boxes(data)
            else:  # HEIF would choose the thumbnail in the file, whose pixels may differ
                image.draft("RGB", (scale * width, scale * height))
            image.decodermaxblock = max(1, len(data))  # decodes in one pass
            resized = resize_antialiased(to_rgb(image), (width, height))
            turn = _UPRIGHT.get(orientation_of(image))
            return resized if turn is None else np.asarray(Image.fromarray(resized).transpose(turn))
    except UnreadableImageError:
        raise
    except Exception as error:  # as for `open_image`
        raise UnreadableImageError(_reason(error)) from error


def upright_size(data: bytes) -> Size:
    """Width and height of an encoded image, rotated upright by its EXIF data; reads the header only.

    Raises:
        UnreadableImageError: as for `decode_image`.
    """
    with open_image(io.BytesIO(data)) as image:
        width, height = image.size
        return (height, width) if orientation_of(image) in _SWAPPED else (width, height)


def quick_check(source: ImageSource, row: int) -> str | None:
    """The reason that an image cannot be read, or None. Decodes only files that look incomplete.

    Such files may still be fine: phones append their own data after the end marker.
    """
    try:
        if not _has_whole_ends(source.read_ends(row)):
            data = source.read(row)
            _check_format(data[:N_SIGNATURE_BYTES])
            if not has_whole_boxes(data):
                decode_image(data, 16)
    except (UnreadableImageError, TruncatedError) as error:
        return str(error)
    return None


def _has_whole_ends(ends: ImageEnds) -> bool:
    first, last, n_bytes = ends
    if first.startswith(b"\xff\xd8\xff"):
        return last.rstrip(b"\0").endswith(b"\xff\xd9")
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" in last
    is_webp = first[:4] == b"RIFF" and first[8:12] == b"WEBP"
    return is_webp and n_bytes >= 8 + int.from_bytes(first[4:8], "little")


def orientation_of(image: Image.Image) -> int:
    """How the decoded pixels of an image are still to be turned, as an EXIF orientation."""
    if image.format in _TURNED_BY_DECODER:
        return 1
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  (a damaged header raises nearly anything, and the image is still readable)
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, with transparent parts on white.

    Raises:
        UnreadableImageError: its pixels are floats.
    """
    if image.mode == "F":
        raise UnreadableImageError("its pixels are floats without a known range; convert it to 8 or 16 bits")
    if image.mode in ("I", "I;16", "I;16B", "I;16L"):  # convert() would clip 16 bits to white
        return Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImageError(f"{image.width}x{image.height} pixels are above the limit of {MAX_PIXELS:,}")


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"it has more than the limit of {MAX_PIXELS:,} pixels"
    text = str(error)
    return _NO_IMAGE if "cannot identify" in text else text


class StackedImages:
    """The images of several sources, concatenated."""

    def __init__(self, parts: Sequence[ImageSource], sizes: Sequence[int]) -> None:
        self.parts = parts
        self.ends = np.cumsum(sizes)

    def find(self, row: int) -> tuple[ImageSource, int]:
        """The source of a row, and its row number there."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part], int(row) - (int(self.ends[part - 1]) if part else 0)

    def read(self, row: int) -> bytes:
        part, own_row = self.find(row)
        return part.read(own_row)

    def read_ends(self, row: int) -> ImageEnds:
        part, own_row = self.find(row)
        return part.read_ends(own_row)


def stack_images(parts: Sequence[ImageSource], sizes: Sequence[int]) -> ImageSource:
    """One source of the images of all `parts`, which have `sizes` rows; stays `FileImages` if all parts are files."""
    files = [part for part in parts if isinstance(part, FileImages)]
    if len(files) == len(parts):
        return FileImages(list(chain.from_iterable(part.paths for part in files)))
    return StackedImages(parts, sizes)


def identify_image(source: ImageSource, row: int) -> str:
    """A cheap fingerprint of an image: size and modification time of a file, else length, first and last bytes."""
    if isinstance(source, StackedImages):
        return identify_image(*source.find(row))
    try:
        if isinstance(source, FileImages):
            status = source.paths[row].stat()
            return f"{status.st_size}:{status.st_mtime_ns}"
        first, last, n_bytes = source.read_ends(row)
    except (OSError, UnreadableImageError):
        return UNREADABLE
    return f"{n_bytes}:{first.hex()}:{last.hex()}"


def read_pixels(data: bytes, size: int) -> Tensor:
    """(3, size, size) uint8 RGB of an encoded photo: the whole image, upright.

    Raises:
        UnreadableImageError: as for `decode_image`.
    """
    pixels = decode_image(data, size, EVALUATION_SCALE)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_network_input(images: Tensor, statistics: ImageStatistics) -> Tensor:
    """The network input, float32 of the same shape, of images (B, 3, S, S) uint8."""
    return normalise(to_unit_range(images), statistics)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], the input of augmentation."""
    return images.float().div_(255)


def normalise(images: Tensor, statistics: ImageStatistics) -> Tensor:
    """Images (B, 3, S, S) in [0, 1], less the mean and divided by the standard deviation of the network's training."""
    mean, std = _on_device(statistics, images.device, images.dtype)
    return (images - mean) / std


@lru_cache
def _on_device(statistics: ImageStatistics, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, 3, 1, 1), cached: a copy to the GPU in each step would wait for its queue."""
    with torch.inference_mode(mode=False):  # cached for training too, which refuses inference tensors
        mean, std = (
            torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1)
            for values in (statistics.mean, statistics.std)
        )
    return mean, std
