"""Reads position and time from the EXIF and XMP headers of photos."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from roadwork.core.progress import track
from roadwork.data.images import FileImages, ImageSource, open_image
from roadwork.data.utils.angles import is_in_range, sexagesimal

_MISSING = (float("nan"), float("nan"))

# More threads than cores, since most of the time goes into opening files.
_N_THREADS = 16
_CHUNK = 1024
_PNG_EXIF = {"exif", "Raw profile type exif"}
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}|Z")

# An attribute or an element of the XMP packet. No XML parser: a packet may hold entities that expand without end.
_XMP = r"exif:GPS{}\s*(?:=\s*[\"']|>)\s*(\d[\d.]*),(\d[\d.]*)(?:,(\d[\d.]*))?([NSEW])"
_XMP_LATITUDE, _XMP_LONGITUDE = (re.compile(_XMP.format(name).encode()) for name in ("Latitude", "Longitude"))
# XMP's times are ISO 8601; a date without a time is skipped.
_XMP_TIME = re.compile(
    rb"(?:exif:DateTimeOriginal|photoshop:DateCreated)\s*(?:=\s*[\"']|>)\s*"
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(Z|[+-]\d\d:\d\d)?\s*[\"'<]"
)


def read_exif_gps(path: Path) -> tuple[float, float]:
    """Latitude and longitude in degrees from a photo's EXIF or XMP header; (nan, nan) if missing or unreadable.

    Decodes no pixels. A missing file or an invalid image has no position here; the code that needs the pixels reports
    it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged EXIF, which counts as missing.
        return _read(FileImages([path]), 0)


def read_exif_gps_table(source: ImageSource, rows: Sequence[int]) -> np.ndarray:
    """(N, 2) float64, the position of each of these N rows as in `read_exif_gps`, in parallel threads."""
    # Warning filters are process-wide, so they are set once around the pool.
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as pool:
        warnings.simplefilter("ignore")
        found = (pool.map(lambda row: _read(source, row), rows[start : start + _CHUNK]) for start in _starts(rows))
        positions = track(chain.from_iterable(found), len(rows), "Reading positions of photos")
        return np.array(list(positions), dtype=np.float64).reshape(-1, 2)


def _starts(rows: Sequence[int]) -> range:
    return range(0, len(rows), _CHUNK)


def position_of(image: Image.Image) -> tuple[float, float]:
    """Latitude and longitude in degrees from an image's EXIF header, else its XMP; (nan, nan) if both lack it."""
    try:
        tags = _exif_of(image).get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(tags[ExifTags.GPS.GPSLatitude], tags[ExifTags.GPS.GPSLatitudeRef], "NS")
        longitude = _degrees(tags[ExifTags.GPS.GPSLongitude], tags[ExifTags.GPS.GPSLongitudeRef], "EW")
        if is_in_range(latitude, longitude):
            return latitude, longitude
    except Exception:  # noqa: BLE001, S110  (damaged headers raise many types: struct, key, type, OS errors)
        pass
    return _position_from_xmp(image.info.get("xmp", b""))


def _position_from_xmp(packet: Any) -> tuple[float, float]:
    found = [pattern.search(packet) for pattern in (_XMP_LATITUDE, _XMP_LONGITUDE)] if isinstance(packet, bytes) else []
    try:
        latitude, longitude = (
            _degrees([float(part or 0) for part in match.groups()[:3]], match[4], letters)
            for match, letters in zip(found, ("NS", "EW"), strict=True)
            if match is not None
        )
    except ValueError:
        return _MISSING
    return (latitude, longitude) if is_in_range(latitude, longitude) else _MISSING


def _read(source: ImageSource, row: int) -> tuple[float, float]:
    try:
        opened = source.paths[row].open("rb") if isinstance(source, FileImages) else io.BytesIO(source.read(row))
        with opened as file, open_image(file) as image:
            return position_of(image)
    except Exception:  # noqa: BLE001  (no image, or damaged)
        return _MISSING


def _exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF header; empty for a PNG without one before the pixels: Pillow would decode these to look behind them."""
    if image.format == "PNG" and not _PNG_EXIF.intersection(image.info):
        return Image.Exif()
    return image.getexif()


def _degrees(parts: Any, reference: Any, letters: str) -> float:
    """Signed degrees from (degrees, minutes, seconds) and a letter; the second of `letters` marks negative values.

    The standard has no signs, but some writers add one to the degrees or to all parts. It may repeat the letter, and it
    may not contradict it.

    Raises:
        ValueError: the reference is not one of the letters or contradicts the signs, or the parts are not an angle.
    """
    degrees, minutes, seconds = numbers = [float(part) for part in parts]
    letter = reference.decode("ascii") if isinstance(reference, bytes) else str(reference)
    letter = letter.strip("\0 ").upper()
    if len(letter) != 1 or letter not in letters:
        raise ValueError(letter)
    signs = [number < 0 for number in numbers if number]
    if any(signs) and not (letter == letters[1] and signs[0] and (all(signs) or not any(signs[1:]))):
        raise ValueError(numbers)
    size = sexagesimal(abs(degrees), abs(minutes), abs(seconds))
    return -size if letter == letters[1] else size


class CameraMetadata(NamedTuple):
    """Where and when a photo was taken.

    Attributes:
        latitude, longitude: in degrees; NaN if missing, or exactly (0, 0), which devices write without a fix.
        captured_at: when the photo was taken, in ISO 8601, with its UTC offset if given; empty if unknown.
    """

    latitude: float = float("nan")
    longitude: float = float("nan")
    captured_at: str = ""


def read_camera_metadata(data: bytes) -> CameraMetadata:
    """Position and time from an encoded photo's EXIF or XMP header; missing or damaged values count as unknown.

    Pillow may warn about a damaged header. Warning filters are process-wide, so the caller sets them.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            (latitude, longitude), captured_at = position_of(image), _captured_at(image)
    except Exception:  # noqa: BLE001 -- damaged headers raise many types; the decoder reports them
        return CameraMetadata()
    if latitude == longitude == 0:
        latitude = longitude = float("nan")
    return CameraMetadata(latitude, longitude, captured_at)


def _captured_at(image: Image.Image) -> str:
    """The time in an image's EXIF header, else in its XMP; empty if both lack it."""
    try:
        tags = _exif_of(image).get_ifd(ExifTags.IFD.Exif)
        text = str(tags[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 -- EXIF's time has no zone
        offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:  # noqa: BLE001
        return _captured_at_from_xmp(image.info.get("xmp", b""))
    return moment + (offset if _OFFSET.fullmatch(offset) else "")


def _captured_at_from_xmp(packet: Any) -> str:
    found = _XMP_TIME.search(packet) if isinstance(packet, bytes) else None
    if found is None:
        return ""
    try:
        moment = datetime.fromisoformat(found[1].decode())
    except ValueError:  # for example the 31st of February
        return ""
    return moment.replace(microsecond=0).isoformat() + (found[2] or b"").decode()
