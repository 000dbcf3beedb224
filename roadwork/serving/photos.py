"""A photo's header: whether it may be decoded at all, and where it was taken."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from roadwork.data.images import FORMATS
from roadwork.inference.exif import CameraFacts, read_camera_facts
from roadwork.serving.limits import Limits
from roadwork.serving.refusals import damaged_photo, empty_photo, too_many_pixels, unsupported_format

_JPEG, _PNG, _RIFF, _WEBP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True)
class PhotoHeader:
    """What is known of a photo before it is decoded.

    Attributes:
        n_pixels: its width times its height.
        camera: where and when it was taken, from EXIF.
    """

    n_pixels: int
    camera: CameraFacts


def read_header(data: bytes, limits: Limits) -> PhotoHeader:
    """The header of an encoded photo; no pixel is decoded.

    Raises:
        Refusal: it is empty, none of the formats, damaged, or has too many pixels.
    """
    if not data:
        raise empty_photo()
    if not _begins_like_a_photo(data):
        raise unsupported_format()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            n_pixels = image.width * image.height
            if n_pixels > limits.max_pixels:
                raise too_many_pixels(f"{image.width}x{image.height}", limits)
            # Pillow would decode a whole PNG to see whether EXIF comes after its pixels.
            has_exif = image.format != "PNG" or "exif" in image.info
            return PhotoHeader(n_pixels, read_camera_facts(data) if has_exif else CameraFacts())
    except _BOMBS:
        raise too_many_pixels("far too many", limits) from None
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError) as error:
        raise damaged_photo(f"its header cannot be read: {type(error).__name__}") from error


def _begins_like_a_photo(data: bytes) -> bool:
    return data.startswith((_JPEG, _PNG)) or (data.startswith(_RIFF) and data[8:12] == _WEBP)
