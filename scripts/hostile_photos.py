"""Generated photos, and hostile requests that the service must reject, for its load test and tests."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from roadwork.demo.write import encode_jpeg

BOUNDARY = "b"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
TAKEN_AT = "2026:01:02 03:04:05"


class Hostile(NamedTuple):
    """A request that must be rejected, with the expected status and code."""

    body: bytes
    content_type: str
    status: int
    code: str


def photo(seed: int, position: tuple[float, float] | None = None, size: tuple[int, int] = (96, 72)) -> bytes:
    """A JPEG of random coloured blocks; `position` is the latitude and longitude in its EXIF."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return encode_jpeg(Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST), position, TAKEN_AT)


def encoded(fmt: str, size: tuple[int, int] = (96, 72), mode: str = "RGB") -> bytes:
    """A grey image in a Pillow format."""
    stream = io.BytesIO()
    Image.new(mode, size, 99).save(stream, fmt)
    return stream.getvalue()


def png(width: int, height: int, data: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """An 8-bit grey PNG from compressed `data`, with further chunks before it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *extra, (b"IDAT", data), (b"IEND", b"")]
    packed = [struct.pack(">I", len(body)) + kind + body + _checksum(kind + body) for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def form(*files: bytes, field: str = "images", name: str = "photo.jpg") -> bytes:
    """The body of a form of type `FORM`, with one part per file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


def hostile_requests(max_bytes: int, max_images: int) -> dict[str, Hostile]:
    """Hostile requests by name, for a service with these limits and less than 25 megapixels."""
    return _bad_photos() | _bad_forms() | _too_much(max_bytes, max_images)


def _bad_photos() -> dict[str, Hostile]:
    good, zeros = photo(1), zlib.compress(bytes(30_000_000), 9)
    text_bomb = (b"zTXt", b"a\0\0" + zeros)
    photos = {
        "truncated": (good[: len(good) // 2], 422, "damaged_photo"),
        "header only": (good[:20], 422, "damaged_photo"),
        "bomb of pixels": (png(5000, 5000, zeros), 413, "too_many_pixels"),
        "header of 400 megapixels": (png(20000, 20000, b""), 413, "too_many_pixels"),
        "header of 10^18 pixels": (png(2**30, 2**30, b""), 413, "too_many_pixels"),
        "bomb of text": (png(8, 8, zlib.compress(bytes(72)), text_bomb), 422, "damaged_photo"),
        "no pixels": (png(8, 8, b""), 422, "damaged_photo"),
        "text named jpg": (b"I am no photo", 415, "unsupported_format"),
        "gif": (encoded("GIF"), 415, "unsupported_format"),
        "half a webp": (encoded("WEBP")[:30], 422, "damaged_photo"),
        "empty file": (b"", 400, "empty_photo"),
    }
    return {name: Hostile(form(data), FORM, status, code) for name, (data, status, code) in photos.items()}


def _bad_forms() -> dict[str, Hostile]:
    good = photo(1)
    nameless = f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    return {
        "json": Hostile(b'{"image": 1}', "application/json", 415, "unsupported_body"),
        "no content type": Hostile(good, "", 415, "unsupported_body"),
        "form without a boundary": Hostile(form(good), "multipart/form-data", 400, "broken_form"),
        "form of another boundary": Hostile(form(good), FORM + "xyz", 400, "broken_form"),
        "form that is a photo": Hostile(good, FORM, 400, "broken_form"),
        "form cut off in its headers": Hostile(form(good)[:30], FORM, 400, "no_photos"),
        "form without a file": Hostile(f"--{BOUNDARY}--\r\n".encode(), FORM, 400, "no_photos"),
        "wrong field": Hostile(form(good, field="image"), FORM, 400, "wrong_field"),
        "no name of the field": Hostile(nameless, FORM, 400, "broken_form"),
        "empty body": Hostile(b"", "image/jpeg", 400, "empty_photo"),
    }


def _too_much(max_bytes: int, max_images: int) -> dict[str, Hostile]:
    return {
        "huge": Hostile(bytes(max_bytes + 1), "image/jpeg", 413, "body_too_large"),
        "huge form": Hostile(form(photo(1) + bytes(max_bytes)), FORM, 413, "body_too_large"),
        "too many": Hostile(form(*[b""] * (max_images + 1)), FORM, 413, "too_many_photos"),
    }


def _checksum(data: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(data))
