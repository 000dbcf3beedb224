"""Records written as csv, parquet or GeoJSON, in a stream."""

from __future__ import annotations

import csv
import glob
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from roadwork.errors import ConfigError
from roadwork.inference.records import COLUMNS, Record
from roadwork.runs import atomic_path

_ROWS_PER_GROUP = 50_000
# RFC 7946 advises against more: 7 decimals of a degree are a centimetre.
_DECIMALS = 7
_SCHEMA = pa.schema(
    [
        ("filename", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float64()),
        ("abstain", pa.bool_()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("captured_at", pa.string()),
        ("error", pa.string()),
    ]
)
_SITE_SUFFIXES = (".geojson", ".csv")
Facts = Mapping[str, Any]


def check_outputs(out: Path, sites: Path | None) -> None:
    """Refuses files that cannot be written, before any work is done.

    Raises:
        ConfigError: by their suffix, since one is a folder, or since both are the same.
    """
    for option, path, suffixes in (("--out", out, tuple(_WRITERS)), ("--sites", sites, _SITE_SUFFIXES)):
        if path is not None and path.suffix.lower() not in suffixes:
            raise ConfigError(f"{option} is {path}; its suffix must be one of {', '.join(suffixes)}.")
        if path is not None and path.is_dir():
            raise ConfigError(f"{option} is {path}, which is a folder. Name a file.")
    if sites is not None and out.absolute() == sites.absolute():
        raise ConfigError(f"--out and --sites are both {out}. Name two files.")


def write_records(path: Path, records: Iterable[Record], facts: Facts) -> None:
    """Writes the records in the form of the path's suffix, atomically.

    Args:
        path: ends in .csv, .parquet or .geojson.
        records: are read once, in a stream.
        facts: of the detector, for the forms that have a place for them; JSON values.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # of a call that was killed
        leftover.unlink()
    with atomic_path(path) as temporary:
        _WRITERS[path.suffix.lower()](temporary, records, facts)


def _write_csv(path: Path, records: Iterable[Record], _: Facts) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for record in records:
            abstain = None if record.abstain is None else str(record.abstain).lower()
            writer.writerow(record.as_row() | {"abstain": abstain})


def _write_parquet(path: Path, records: Iterable[Record], facts: Facts) -> None:
    rows = (record.as_row() for record in records)
    schema = _SCHEMA.with_metadata({"roadwork": json.dumps(facts)})
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _write_geojson(path: Path, records: Iterable[Record], facts: Facts) -> None:
    """A FeatureCollection (RFC 7946), a line each feature; what was not placed has the geometry null."""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", "roadwork": {json.dumps(facts)}, "features": [')
        for number, feature in enumerate(_features(records)):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(feature, ensure_ascii=False, allow_nan=False))
        file.write("\n]}\n")


def _features(records: Iterable[Record]) -> Iterator[dict[str, Any]]:
    for record in records:
        properties = record.as_row()
        latitude, longitude = properties.pop("latitude"), properties.pop("longitude")
        position = [round(longitude, _DECIMALS), round(latitude, _DECIMALS)] if record.has_gps else None
        geometry = {"type": "Point", "coordinates": position} if position else None
        yield {"type": "Feature", "geometry": geometry, "properties": properties}


_WRITERS: dict[str, Callable[[Path, Iterable[Record], Facts], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".geojson": _write_geojson,
}
