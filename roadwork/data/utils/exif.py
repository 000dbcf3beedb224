"""Position and time that a camera wrote into a photo's EXIF header."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from roadwork.data.images import FORMATS

_MISSING = (float("nan"), float("nan"))

# One thread a file handle, not a core: the time goes into opening files.
_N_THREADS = 16
_PNG_EXIF = {"exif", "Raw profile type exif"}
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}|Z")


def read_exif_gps(path: Path) -> tuple[float, float]:
    """Latitude and longitude in degrees from the photo's header, (nan, nan) where it has none that can be read.

    No pixel is decoded. A file that is missing or no image counts as without GPS here: what cannot be decoded is
    reported by those who need the pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF, which is missing GPS here.
        return _read(path)


def read_exif_gps_table(paths: Sequence[Path]) -> np.ndarray:
    """(N, 2) float64 of ``read_exif_gps`` for each path, read by a pool of threads."""
    # Filters are process-wide state: set once around the pool, not in each thread.
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as pool:
        warnings.simplefilter("ignore")
        return np.array(list(pool.map(_read, paths)), dtype=np.float64).reshape(-1, 2)


def position_from_exif(exif: Image.Exif) -> tuple[float, float]:
    """As `read_exif_gps`, of a header that is read already."""
    try:
        tags = exif.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(tags[ExifTags.GPS.GPSLatitude], tags[ExifTags.GPS.GPSLatitudeRef], "NS")
        longitude = _degrees(tags[ExifTags.GPS.GPSLongitude], tags[ExifTags.GPS.GPSLongitudeRef], "EW")
    except Exception:  # noqa: BLE001  (damaged headers raise nearly anything: struct, key, type, OS errors)
        return _MISSING
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else _MISSING


def _read(path: Path) -> tuple[float, float]:
    try:
        with Image.open(path) as image:
            return position_from_exif(image.getexif())
    except Exception:  # noqa: BLE001  (no image, or damaged)
        return _MISSING


def _degrees(parts: Any, reference: Any, letters: str) -> float:
    """Signed degrees of EXIF's (degrees, minutes, seconds); the second of ``letters`` is the negative side.

    Raises:
        ValueError: The reference is none of the letters, which leaves the sign unknown, or there are not three parts.
    """
    degrees, minutes, seconds = (float(part) for part in parts)
    letter = reference.decode("ascii") if isinstance(reference, bytes) else str(reference)
    letter = letter.strip("\0 ").upper()
    if len(letter) != 1 or letter not in letters:
        raise ValueError(letter)
    size = degrees + minutes / 60 + seconds / 3600
    return -size if letter == letters[1] else size


class CameraMetadata(NamedTuple):
    """Where and when a photo was taken.

    Attributes:
        latitude, longitude: in degrees; NaN without a position, or at exactly (0, 0), as of a device without a fix.
        captured_at: ISO 8601 of DateTimeOriginal, with its offset from UTC where there is one; empty where unknown.
    """

    latitude: float = float("nan")
    longitude: float = float("nan")
    captured_at: str = ""


def read_camera_metadata(data: bytes) -> CameraMetadata:
    """The facts in an encoded photo's EXIF header; what is missing or damaged there counts as unknown.

    Pillow may warn of a damaged header: filters are the whole process's, so the caller sets them.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "PNG" and not _PNG_EXIF.intersection(image.info):
                return CameraMetadata()  # getexif would decode all of it to look behind the pixels
            exif = image.getexif()
    except Exception:  # noqa: BLE001 -- damaged headers raise nearly anything; who decodes the pixels reports it
        return CameraMetadata()
    latitude, longitude = position_from_exif(exif)
    if latitude == longitude == 0:
        latitude = longitude = float("nan")
    return CameraMetadata(latitude, longitude, _captured_at(exif))


def _captured_at(exif: Image.Exif) -> str:
    try:
        tags = exif.get_ifd(ExifTags.IFD.Exif)
        text = str(tags[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 -- EXIF's time has no zone
        offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:  # noqa: BLE001
        return ""
    return moment + (offset if _OFFSET.fullmatch(offset) else "")
