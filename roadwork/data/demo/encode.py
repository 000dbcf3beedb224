"""Pictures as JPEG bytes, with their position in EXIF as cameras and phones write it."""

from __future__ import annotations

import io

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

QUALITY = 85
SECOND_FRACTION = 10_000  # 0.0001 seconds of arc are 3 mm


def encode_jpeg(image: Image.Image, position: tuple[float, float] | None, taken_at: str) -> bytes:
    """The picture as JPEG; without a position there is no GPS block either."""
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = "roadwork demo-data"
    exif[ExifTags.Base.DateTime] = taken_at
    if position is not None:
        latitude, longitude = position
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                ExifTags.GPS.GPSLatitudeRef: "N" if latitude >= 0 else "S",
                ExifTags.GPS.GPSLatitude: _degrees_minutes_seconds(latitude),
                ExifTags.GPS.GPSLongitudeRef: "E" if longitude >= 0 else "W",
                ExifTags.GPS.GPSLongitude: _degrees_minutes_seconds(longitude),
            }
        )
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY, exif=exif)
    return stream.getvalue()


def _degrees_minutes_seconds(angle: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    ticks = round(abs(angle) * 3600 * SECOND_FRACTION)
    minutes, seconds = divmod(ticks, 60 * SECOND_FRACTION)
    return IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(seconds, SECOND_FRACTION)
