"""What a camera wrote into a photo beside its pixels: where, and when."""

from __future__ import annotations

import io
import re
from datetime import datetime
from typing import NamedTuple

from PIL import ExifTags, Image

from roadwork.data.images import FORMATS
from roadwork.data.utils.exif_gps import position_in

_PNG_EXIF = {"exif", "Raw profile type exif"}
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}|Z")


class CameraFacts(NamedTuple):
    """Where and when a photo was taken.

    Attributes:
        latitude, longitude: in degrees; NaN without a position, or at exactly (0, 0), as of a device without a fix.
        captured_at: ISO 8601 of DateTimeOriginal, with its offset from UTC where there is one; empty where unknown.
    """

    latitude: float = float("nan")
    longitude: float = float("nan")
    captured_at: str = ""


def read_camera_facts(data: bytes) -> CameraFacts:
    """The facts in an encoded photo's EXIF header; what is missing or damaged there counts as unknown.

    Pillow may warn of a damaged header: filters are the whole process's, so the caller sets them.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.format == "PNG" and not _PNG_EXIF.intersection(image.info):
                return CameraFacts()  # getexif would decode all of it to look behind the pixels
            exif = image.getexif()
    except Exception:  # noqa: BLE001 -- damaged headers raise nearly anything; who decodes the pixels reports it
        return CameraFacts()
    latitude, longitude = position_in(exif)
    if latitude == longitude == 0:
        latitude = longitude = float("nan")
    return CameraFacts(latitude, longitude, _captured_at(exif))


def _captured_at(exif: Image.Exif) -> str:
    try:
        tags = exif.get_ifd(ExifTags.IFD.Exif)
        text = str(tags[ExifTags.Base.DateTimeOriginal]).strip("\0 ")
        moment = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()  # noqa: DTZ007 -- EXIF's time has no zone
        offset = str(tags.get(ExifTags.Base.OffsetTimeOriginal, "")).strip("\0 ")
    except Exception:  # noqa: BLE001
        return ""
    return moment + (offset if _OFFSET.fullmatch(offset) else "")
