"""Prediction records, and their csv, parquet and GeoJSON files."""

from __future__ import annotations

import csv
import glob
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

from roadwork.core.errors import ConfigError
from roadwork.core.files import atomic_path
from roadwork.detector.detector import NONE, ROADWORK
from roadwork.detector.familiarity import Familiarity, unknown
from roadwork.detector.format import ExportFacts

_ERRORS_SHOWN = 20
_ROWS_PER_GROUP = 50_000

# RFC 7946 advises against more decimals; 7 decimals of a degree are a centimetre.
_DECIMALS = 7
_SITE_SUFFIXES = (".geojson", ".csv")


@dataclass(frozen=True, slots=True)
class Record:
    """The prediction of one photo, or why it could not be read.

    Attributes:
        key: identifies the photo in a later call; not in the output.
        filename: as the user named it.
        label: `Roadwork` or `None` (text). If the photo cannot be read, this and the next two are None.
        probability: calibrated probability of Roadwork.
        abstain: whether the probability is in the abstain band.
        latitude, longitude: in degrees; None without a position.
        captured_at: ISO 8601, with the camera's UTC offset if it is known; None if the time is unknown.
        error: why the photo cannot be read.
    """

    key: str
    filename: str
    label: str | None = None
    probability: float | None = None
    abstain: bool | None = None
    latitude: float | None = None
    longitude: float | None = None
    captured_at: str | None = None
    error: str | None = None

    @property
    def has_gps(self) -> bool:
        return self.latitude is not None and self.longitude is not None

    def as_row(self) -> dict[str, Any]:
        """The values by output column, in order."""
        row = asdict(self)
        del row["key"]
        return row

    def to_line(self) -> bytes:
        """A line of a partial file; JSON escapes preserve file names that are not valid Unicode."""
        return json.dumps(astuple(self), allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """The record of a line.

        Raises:
            ValueError: the line is damaged.
        """
        values = json.loads(line)
        if not isinstance(values, list) or len(values) != len(fields(cls)):
            raise ValueError(f"it is not a list of {len(fields(cls))} values")
        return cls(*values)


COLUMNS = tuple(field.name for field in fields(Record) if field.name != "key")


def shown_name(name: str) -> str:
    """A file name as valid UTF-8: other bytes become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def known(degrees: float) -> float | None:
    """None for NaN."""
    return None if math.isnan(degrees) else degrees


@dataclass
class Summary:
    """Counts over all photos of an output.

    Attributes:
        n_photos: all photos.
        n_predicted: photos predicted by this call; the others are from an interrupted call.
        seconds: duration of these predictions.
        n_roadwork, n_none: photos by label, including those in the abstain band.
        n_abstained: photos in the abstain band.
        n_without_gps: photos without a position.
        n_unreadable: photos that cannot be read.
        unreadable: names and reasons of the first unreadable photos.
        n_sites: number of written sites; None if sites were not requested.
        familiarity: whether the photos look like the training photos.
        prior_lines: the estimated share of Roadwork for people; empty if it was not requested.
        facts: of the written probabilities, where the estimated share changes them.
    """

    n_photos: int = 0
    n_predicted: int = 0
    seconds: float = 0.0
    n_roadwork: int = 0
    n_none: int = 0
    n_abstained: int = 0
    n_without_gps: int = 0
    n_unreadable: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    n_sites: int | None = None
    familiarity: Familiarity = field(default_factory=partial(unknown, "no photo was predicted."))
    prior_lines: list[str] = field(default_factory=list)
    facts: ExportFacts | None = None

    def count(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yields the records and counts them."""
        for record in records:
            self.n_photos += 1
            self.n_roadwork += record.label == ROADWORK
            self.n_none += record.label == NONE
            self.n_abstained += record.abstain is True
            self.n_without_gps += not record.has_gps
            if record.error is not None:
                self.n_unreadable += 1
                if len(self.unreadable) < _ERRORS_SHOWN:
                    self.unreadable.append((record.filename, record.error))
            yield record

    def lines(self) -> list[str]:
        """The summary for people."""
        speed = f", {self.n_predicted / self.seconds:,.1f} photos/s" if self.n_predicted and self.seconds else ""
        earlier = self.n_photos - self.n_predicted
        before = f" ({earlier:,} predicted before)" if earlier else ""
        abstained = f" {self.n_abstained:,} of them are in the abstain band." if self.n_abstained else ""
        lines = [
            f"{self.n_photos:,} photos{before} in {self.seconds:,.1f} s{speed}.",
            f"Roadwork {self.n_roadwork:,}, None {self.n_none:,}.{abstained}",
        ]
        if self.n_without_gps:
            lines.append(f"{self.n_without_gps:,} photos have no GPS.")
        if self.n_unreadable:
            lines.append(f"{self.n_unreadable:,} photos cannot be read; see the column error:")
            lines += [f"  {name}: {reason}" for name, reason in self.unreadable]
            if self.n_unreadable > len(self.unreadable):
                lines.append(f"  and {self.n_unreadable - len(self.unreadable):,} more")
        return lines


def threshold_in_words(facts: ExportFacts) -> str:
    """The decision threshold and its prior, for people."""
    if facts.prior is None:
        return f"Decision threshold {facts.threshold:.2g}. The detector is not calibrated."
    return f"Decision threshold {facts.threshold:.2g}, for a prior of {facts.prior:.2g}."


Facts = Mapping[str, Any]


def check_outputs(out: Path, sites: Path | None) -> None:
    """Checks the output files before any work is done.

    Raises:
        ConfigError: a suffix is not allowed, a file is a folder, or both files are the same.
    """
    for option, path, suffixes in (("--out", out, tuple(_WRITERS)), ("--sites", sites, _SITE_SUFFIXES)):
        if path is not None and path.suffix.lower() not in suffixes:
            raise ConfigError(f"{option} is {path}; its suffix must be one of {', '.join(suffixes)}.")
        if path is not None and path.is_dir():
            raise ConfigError(f"{option} is {path}, which is a folder. Name a file.")
    if sites is not None and out.absolute() == sites.absolute():
        raise ConfigError(f"--out and --sites are both {out}. Name two files.")


def write_records(path: Path, records: Iterable[Record], facts: Facts) -> None:
    """Writes the records atomically, in the format of the path's suffix.

    Args:
        path: ends in .csv, .parquet or .geojson.
        records: read once, in a stream.
        facts: metadata of the detector as JSON values, for parquet and GeoJSON.
    """
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # from a killed call
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
    import pyarrow as pa  # noqa: PLC0415 -- slow to import, and only needed for parquet
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns = {name: pa.string() for name in COLUMNS}
    columns |= {"probability": pa.float64(), "abstain": pa.bool_(), "latitude": pa.float64(), "longitude": pa.float64()}
    schema = pa.schema(columns, metadata={"roadwork": json.dumps(facts)})
    rows = (record.as_row() for record in records)
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _write_geojson(path: Path, records: Iterable[Record], facts: Facts) -> None:
    """A FeatureCollection (RFC 7946), one line per feature; without a position the geometry is null."""
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
