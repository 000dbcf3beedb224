"""Reads position and time from EXIF headers."""

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

from roadwork.data.images import open_image

_MISSING = (float("nan"), float("nan"))

# More threads than cores, since most of the time goes into opening files.
_N_THREADS = 16
_PNG_EXIF = {"exif", "Raw profile type exif"}
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}|Z")


def read_exif_gps(path: Path) -> tuple[float, float]:
    """Latitude and longitude in degrees from a photo's EXIF header; (nan, nan) if missing or unreadable.

    Decodes no pixels. A missing file or an invalid image has no position here; the code that needs the pixels reports
    it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about damaged EXIF, which counts as missing.
        return _read(path)


def read_exif_gps_table(paths: Sequence[Path]) -> np.ndarray:
    """(N, 2) float64, ``read_exif_gps`` of each path, in parallel threads."""
    # Warning filters are process-wide, so they are set once around the pool.
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS) as pool:
        warnings.simplefilter("ignore")
        return np.array(list(pool.map(_read, paths)), dtype=np.float64).reshape(-1, 2)


def position_from_exif(exif: Image.Exif) -> tuple[float, float]:
    """Latitude and longitude in degrees from an EXIF header; (nan, nan) if missing or unreadable."""
    try:
        tags = exif.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(tags[ExifTags.GPS.GPSLatitude], tags[ExifTags.GPS.GPSLatitudeRef], "NS")
        longitude = _degrees(tags[ExifTags.GPS.GPSLongitude], tags[ExifTags.GPS.GPSLongitudeRef], "EW")
    except Exception:  # noqa: BLE001  (damaged headers raise many types: struct, key, type, OS errors)
        return _MISSING
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else _MISSING


def _read(path: Path) -> tuple[float, float]:
    try:
        with path.open("rb") as file, open_image(file) as image:
            return position_from_exif(image.getexif())
    except Exception:  # noqa: BLE001  (no image, or damaged)
        return _MISSING


def _degrees(parts: Any, reference: Any, letters: str) -> float:
    """Signed degrees from EXIF's (degrees, minutes, seconds); the second of ``letters`` marks negative values.

    Raises:
        ValueError: the reference is not one of the letters, or there are not three parts.
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
        latitude, longitude: in degrees; NaN if missing, or exactly (0, 0), which devices write without a fix.
        captured_at: DateTimeOriginal in ISO 8601, with its UTC offset if given; empty if unknown.
    """

    latitude: float = float("nan")
    longitude: float = float("nan")
    captured_at: str = ""


def read_camera_metadata(data: bytes) -> CameraMetadata:
    """Position and time from an encoded photo's EXIF header; missing or damaged values count as unknown.

    Pillow may warn about a damaged header. Warning filters are process-wide, so the caller sets them.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            if image.format == "PNG" and not _PNG_EXIF.intersection(image.info):
                return CameraMetadata()  # getexif would decode the whole image to look behind the pixels
            exif = image.getexif()
            (latitude, longitude), captured_at = position_from_exif(exif), _captured_at(exif)
    except Exception:  # noqa: BLE001 -- damaged headers raise many types; the decoder reports them
        return CameraMetadata()
    if latitude == longitude == 0:
        latitude = longitude = float("nan")
    return CameraMetadata(latitude, longitude, captured_at)


def _captured_at(exif: Image.Exif) -> str:
    try:
        tags = exif.get_ifd(ExifTags.IFD.Exif)
        text = str(tags[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 -- EXIF's time has no zone
        offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:  # noqa: BLE001
        return ""
    return moment + (offset if _OFFSET.fullmatch(offset) else "")
