"""GPS that a camera wrote into a photo's EXIF header."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

_MISSING = (float("nan"), float("nan"))
# One thread a file handle, not a core: the time goes into opening files.
_N_THREADS = 16


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


def position_in(exif: Image.Exif) -> tuple[float, float]:
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
            return position_in(image.getexif())
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
