"""Output files: round trips with unusual names, and GeoJSON by RFC 7946."""

import csv
import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from roadwork.core.errors import ConfigError
from roadwork.detector.outputs import COLUMNS, Record, check_outputs, shown_name, write_records

NAMES = [
    "plain.jpg",
    "größe 日本.jpg",
    'a,b;"c".jpg',
    "two\nlines\r.jpg",
    "{brace} [x] <b>&.jpg",
    "=1+1.jpg",
    "'\\ \t.jpg",
    shown_name("bad\udcff.jpg"),
]
PLACED = {"latitude": -22.906847123456, "longitude": 179.99999999999}
RECORDS = [
    *(Record(f"/k/{name}", name, "None", 0.1 + 0.2, abstain=True, **PLACED) for name in NAMES),
    Record("/k/x", "x.jpg", "Roadwork", 0.93, abstain=False, captured_at="2024-09-08T10:22:31+02:00"),
    Record("/k/y", "y.jpg", error="it is not a JPEG"),
]
ROWS = [record.as_row() for record in RECORDS]
FACTS = {"threshold": 0.45, "prior": None}


def test_csv_round_trip(tmp_path):
    write_records(tmp_path / "o.csv", iter(RECORDS), FACTS)
    with (tmp_path / "o.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["filename"] for row in rows] == [row["filename"] for row in ROWS]
    assert [row["label"] for row in rows] == ["None"] * len(NAMES) + ["Roadwork", ""]
    assert float(rows[0]["probability"]) == 0.1 + 0.2
    assert float(rows[0]["longitude"]) == PLACED["longitude"]
    assert rows[-1] == dict.fromkeys(COLUMNS, "") | {"filename": "y.jpg", "error": "it is not a JPEG"}
    frame = pd.read_csv(tmp_path / "o.csv", keep_default_na=False)
    assert frame["abstain"].tolist() == ["true"] * len(NAMES) + ["false", ""]


def test_parquet_round_trip(tmp_path):
    write_records(tmp_path / "o.parquet", iter(RECORDS), FACTS)
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.to_pylist() == ROWS
    assert json.loads(table.schema.metadata[b"roadwork"]) == FACTS
    write_records(tmp_path / "o.parquet", iter(RECORDS[-1:]), FACTS)  # columns with only nulls keep their types
    assert pq.read_schema(tmp_path / "o.parquet").equals(table.schema)


def test_geojson_follows_rfc_7946(tmp_path):
    write_records(tmp_path / "o.geojson", iter(RECORDS), FACTS)
    content = json.loads((tmp_path / "o.geojson").read_bytes().decode("utf-8"))
    assert content["type"] == "FeatureCollection"
    assert content["roadwork"] == FACTS
    assert "crs" not in content
    for feature, row in zip(content["features"], ROWS, strict=True):
        assert set(feature) == {"type", "geometry", "properties"}
        assert feature["type"] == "Feature"
        if row["latitude"] is None:
            assert feature["geometry"] is None
        else:
            assert feature["geometry"] == {"type": "Point", "coordinates": [180.0, -22.9068471]}  # longitude first
        assert feature["properties"] == {k: v for k, v in row.items() if k not in {"latitude", "longitude"}}


def test_geojson_opens_in_folium(tmp_path):
    import folium

    write_records(tmp_path / "o.geojson", iter(RECORDS[:2]), FACTS)
    layer = folium.GeoJson((tmp_path / "o.geojson").read_text(encoding="utf-8"))
    (south, west), (north, east) = layer.get_bounds()
    assert (south, west, north, east) == (-22.9068471, 180.0, -22.9068471, 180.0)


def test_failed_records_leave_no_file(tmp_path):
    def broken():
        yield RECORDS[0]
        raise RuntimeError

    for suffix in ("csv", "parquet", "geojson"):
        with pytest.raises(RuntimeError):
            write_records(tmp_path / f"o.{suffix}", broken(), FACTS)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_call_are_removed(tmp_path):
    (tmp_path / ".o[1].csv.123.tmp").write_text("half")
    (tmp_path / ".other.csv.123.tmp").write_text("half")
    write_records(tmp_path / "o[1].csv", iter(RECORDS), FACTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.csv.123.tmp", "o[1].csv"]


@pytest.mark.parametrize(
    ("out", "sites", "message"),
    [
        ("o.txt", None, r"--out.*o\.txt.*\.csv, \.parquet, \.geojson"),
        ("o", None, "suffix"),
        ("folder.csv", None, r"folder\.csv"),
        ("o.csv", "s.parquet", r"--sites.*\.geojson, \.csv"),
        ("o.geojson", "o.geojson", r"o\.geojson"),
    ],
)
def test_invalid_output_files_are_rejected(tmp_path, out, sites, message):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ConfigError, match=message):
        check_outputs(tmp_path / out, tmp_path / sites if sites else None)
    check_outputs(tmp_path / "o.GeoJSON", tmp_path / "s.geojson")
