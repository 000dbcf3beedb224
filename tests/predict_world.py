"""Photos with and without EXIF, and files that are none, for tests of prediction."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

BERLIN = (52.520008, 13.404954)
RIO = (-22.906847, -43.172897)


def jpeg(seed: int = 0, gps: tuple[float, float] | None = None, taken: str = "", offset: str = "") -> bytes:
    """A small JPEG whose pixels depend on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((64, 48))
    exif = Image.Exif()
    if gps is not None:
        exif.get_ifd(ExifTags.IFD.GPSInfo).update(
            {
                ExifTags.GPS.GPSLatitudeRef: "N" if gps[0] >= 0 else "S",
                ExifTags.GPS.GPSLatitude: _parts(gps[0]),
                ExifTags.GPS.GPSLongitudeRef: "E" if gps[1] >= 0 else "W",
                ExifTags.GPS.GPSLongitude: _parts(gps[1]),
            }
        )
    times = exif.get_ifd(ExifTags.IFD.Exif)
    if taken:
        times[ExifTags.Base.DateTimeOriginal] = taken
    if offset:
        times[ExifTags.Base.OffsetTimeOriginal] = offset
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def _parts(degrees: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    minutes, seconds = divmod(round(abs(degrees) * 3_600_000_000), 60_000_000)
    return IFDRational(minutes // 60), IFDRational(minutes % 60), IFDRational(seconds, 1_000_000)


def make_photos(folder: Path, n: int, start: int = 0) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.jpg" for number in range(start, start + n)]
    for number, path in enumerate(paths, start):
        path.write_bytes(jpeg(number))
    return paths


def huge_png() -> bytes:
    """A header of 100,000 x 100,000 pixels and next to nothing behind it."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def write_unreadable(folder: Path) -> dict[str, str]:
    """Files named as photos that cannot be read, and what is said of each."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = jpeg()
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    contents = {
        "empty.jpg": (b"", "not a JPEG"),
        "text.jpg": (b"hello", "not a JPEG"),
        "gif.jpg": (gif.getvalue(), "not a JPEG"),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "header.jpg": (whole[:30], "truncated"),
        "huge.png": (huge_png(), "limit"),
        "zeros.webp": (b"RIFF" + bytes(60), "not a JPEG"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "dangling.jpg").symlink_to(folder / "absent.jpg")
    return {name: said for name, (_, said) in contents.items()} | {"dangling.jpg": "No such file"}


def write_parquet(path: Path, images: list, rows_per_group: int = 3, **columns: list) -> Path:
    """In Hugging Face's schema; `images` are bytes, or None, or dicts."""
    structs = [
        image if isinstance(image, dict) or image is None else {"bytes": image, "path": None} for image in images
    ]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(structs, kind), **columns})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path
