"""Writes demo data as a folder with labels.csv or as parquet with embedded JPEGs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import IFDRational

from roadwork.demo.cities import CITIES, City
from roadwork.demo.places import Sequence, deployment_points

QUALITY = 85
SECOND_FRACTION = 10_000  # 0.0001 seconds of arc are 3 mm
CLASS_NAMES = ("None", "Roadwork")
ROWS_PER_SHARD = 1000
LOCAL_COLUMNS = (
    "filename", "label", "latitude", "longitude", "gps", "sequence_id", "captured_at", "city", "country", "weather",
    "time_of_day",
)  # fmt: skip
PARQUET_SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "label": pa.int64(),
        "latitude": pa.float64(),
        "longitude": pa.float64(),
        "gps": pa.string(),
        "captured_at": pa.string(),
        "city": pa.string(),
        "weather": pa.string(),
        "time_of_day": pa.string(),
        "video_info": pa.struct({"vid_id": pa.string()}),
    }
)

# Schema metadata from which `datasets` decodes the column as images.
_PLAIN = {name: {"dtype": str(PARQUET_SCHEMA.field(name).type), "_type": "Value"} for name in PARQUET_SCHEMA.names[4:9]}
HUGGINGFACE_FEATURES = {
    "image": {"_type": "Image"},
    "label": {"dtype": "int64", "_type": "Value"},
    "latitude": {"dtype": "float64", "_type": "Value"},
    "longitude": {"dtype": "float64", "_type": "Value"},
    **_PLAIN,
    "video_info": {"vid_id": {"dtype": "string", "_type": "Value"}},
}


def encode_jpeg(image: Image.Image, position: tuple[float, float] | None, taken_at: str) -> bytes:
    """The image as JPEG; without a position it has no GPS block."""
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


@dataclass(frozen=True)
class Picture:
    """One row: a frame of a sequence and its JPEG."""

    sequence: Sequence
    frame: int
    jpeg: bytes

    @property
    def filename(self) -> str:
        return f"{self.sequence.name}-{self.frame}.jpg"

    @property
    def position(self) -> tuple[float, float] | tuple[None, None]:
        """Values of the latitude and longitude columns."""
        return self.sequence.position(self.frame) if self.sequence.gps_form == "columns" else (None, None)

    @property
    def gps(self) -> str | None:
        """Value of the gps column."""
        return self.sequence.gps_text(self.frame) if self.sequence.gps_form == "text" else None

    @property
    def captured_at(self) -> str:
        return f"{self.sequence.time(self.frame):%Y-%m-%dT%H:%M:%SZ}"


def write_local(folder: Path, pictures: Iterable[Picture]) -> None:
    """Writes images/ and labels.csv."""
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LOCAL_COLUMNS)
        for picture in pictures:
            sequence = picture.sequence
            (folder / "images" / picture.filename).write_bytes(picture.jpeg)
            writer.writerow(
                [
                    f"images/{picture.filename}",
                    CLASS_NAMES[sequence.label],
                    *picture.position,
                    picture.gps,
                    sequence.name,
                    picture.captured_at,
                    sequence.city.name,
                    sequence.city.country,
                    *sequence.condition,
                ]
            )


def write_parquet(folder: Path, pictures: Iterable[Picture], count: int) -> None:
    """Writes data/train-*.parquet in the schema of natix-network-org/roadwork."""
    (folder / "data").mkdir()
    schema = PARQUET_SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": HUGGINGFACE_FEATURES}})})
    shards = -(-count // ROWS_PER_SHARD)
    rows = iter(pictures)
    for shard in range(shards):
        path = folder / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        size = min(ROWS_PER_SHARD, count - shard * ROWS_PER_SHARD)
        table = pa.Table.from_pylist([_parquet_row(next(rows)) for _ in range(size)], schema=schema)
        pq.write_table(table, path, row_group_size=100)


def _parquet_row(picture: Picture) -> dict[str, object]:
    """One row; every seventh sequence lacks metadata, as in the real dataset."""
    sequence = picture.sequence
    latitude, longitude = picture.position
    is_described = sequence.index % 7 != 3
    return {
        "image": {"bytes": picture.jpeg, "path": picture.filename},
        "label": sequence.label,
        "latitude": latitude,
        "longitude": longitude,
        "gps": picture.gps,
        "captured_at": picture.captured_at,
        "city": sequence.city.name,
        "weather": sequence.condition[0] if is_described else None,
        "time_of_day": sequence.condition[1] if is_described else None,
        "video_info": {"vid_id": sequence.name},
    }


def write_deployment(folder: Path, seed: int, cities: tuple[City, ...] = CITIES) -> int:
    """Writes deployment.geojson, points without labels; returns how many."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [longitude, latitude]}}
        for latitude, longitude in deployment_points(seed, cities).tolist()
    ]
    text = json.dumps({"type": "FeatureCollection", "features": features}, indent=0)
    (folder / "deployment.geojson").write_text(text + "\n", encoding="utf-8")
    return len(features)
