"""Files of the demo dataset: schema, positions, sequences, determinism, errors."""

import csv
import hashlib
import io
import json
import re
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import ExifTags, Image

from roadwork.core.errors import DataError
from roadwork.data.utils.gps_utils import parse_gps_string
from roadwork.demo import generate_demo_data, write
from roadwork.demo.cities import CITIES
from roadwork.demo.places import plan_sequences

SIZE = (160, 120)


def rows_of(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def hashes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def exif_position(path):
    """(latitude, longitude) in degrees from the EXIF block, or None."""
    with Image.open(path) as image:
        gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    if not gps:
        return None
    degrees = []
    for value, reference, negative in ((2, 1, "S"), (4, 3, "W")):
        d, m, s = (float(part) for part in gps[value])
        degrees.append((d + m / 60 + s / 3600) * (-1 if gps[reference] == negative else 1))
    return tuple(degrees)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "data"
    return generate_demo_data(out, images=82, size=SIZE, seed=0, processes=1)


def test_bytes_depend_on_the_seed_and_not_on_the_processes(tmp_path):
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    generate_demo_data(one, images=24, size=SIZE, seed=0, processes=1)
    generate_demo_data(two, images=24, size=SIZE, seed=0, processes=2)
    generate_demo_data(other, images=24, size=SIZE, seed=1, processes=1)
    assert hashes(one) == hashes(two)
    assert len(set(hashes(one).values())) == 27
    pictures = {name: sha for name, sha in hashes(other).items() if name.endswith(".jpg")}
    assert not set(pictures.values()) & set(hashes(one).values())


def test_geo_shift_defaults_to_1_and_changes_pictures_only(tmp_path):
    default, one, zero = tmp_path / "default", tmp_path / "one", tmp_path / "zero"
    generate_demo_data(default, images=24, size=SIZE, processes=1)
    generate_demo_data(one, images=24, size=SIZE, geo_shift=1, processes=1)
    generate_demo_data(zero, images=24, size=SIZE, geo_shift=0, processes=1)
    assert hashes(one) == hashes(default)
    assert "--geo-shift 0.0" in (zero / "README.txt").read_text(encoding="utf-8")
    changed = {name for name, sha in hashes(zero).items() if hashes(one)[name] != sha}
    assert "README.txt" in changed
    assert not changed & {"labels.csv", "deployment.geojson"}
    assert len(changed) > 12  # borrowed looks; a city also borrows its own


def test_files_and_columns_of_the_local_form(demo):
    rows = rows_of(demo.folder)
    assert {path.name for path in demo.folder.iterdir()} == {"images", "labels.csv", "deployment.geojson", "README.txt"}
    assert tuple(rows[0]) == write.LOCAL_COLUMNS
    assert len(rows) == demo.images == 82
    assert {row["filename"] for row in rows} == {f"images/{path.name}" for path in (demo.folder / "images").iterdir()}
    assert {row["label"] for row in rows} == {"None", "Roadwork"}
    assert sum(row["label"] == "Roadwork" for row in rows) == demo.positives
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["captured_at"]) for row in rows)
    for row in rows:
        with Image.open(demo.folder / row["filename"]) as image:
            assert (image.format, image.size) == ("JPEG", SIZE)
    readme = (demo.folder / "README.txt").read_text(encoding="utf-8")
    assert "Synthetic" in readme
    assert "roadwork demo-data DIR --images 82 --size 160x120 --seed 0 --geo-shift 1.0 --format local" in readme


def test_exif_agrees_with_the_columns(demo):
    forms = {"columns": 0, "text": 0, "none": 0}
    for row in rows_of(demo.folder):
        position = exif_position(demo.folder / row["filename"])
        if row["latitude"]:
            forms["columns"] += 1
            assert row["gps"] == ""
            assert position == pytest.approx((float(row["latitude"]), float(row["longitude"])), abs=1e-7)
        elif row["gps"]:
            forms["text"] += 1
            assert position == pytest.approx(parse_gps_string(row["gps"]), abs=1e-7)
        else:
            forms["none"] += 1
            assert position is None
    assert forms["none"] == demo.rows_without_gps
    assert forms["text"] == demo.rows_with_text_gps


def test_sequences_have_four_nearby_frames_of_one_label(demo):
    by_sequence = {}
    for row in rows_of(demo.folder):
        by_sequence.setdefault(row["sequence_id"], []).append(row)
    assert sorted(len(rows) for rows in by_sequence.values()) == [2] + [4] * 20
    for rows in by_sequence.values():
        assert len({(row["label"], row["city"], row["weather"], row["time_of_day"]) for row in rows}) == 1
        places = [(float(row["latitude"]), float(row["longitude"])) for row in rows if row["latitude"]]
        for (lat0, lon0), (lat1, lon1) in pairwise(places):
            metres = 111_195 * np.hypot(lat1 - lat0, (lon1 - lon0) * np.cos(np.radians(lat0)))
            assert 0.7 < metres < 2.1


def test_parquet_form_holds_the_same_pictures(demo, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(write, "ROWS_PER_SHARD", 50)
    out = tmp_path / "hub"
    generate_demo_data(out, images=82, size=SIZE, seed=0, fmt="parquet", processes=1)
    shards = sorted((out / "data").iterdir())
    assert [path.name for path in shards] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    loaded = datasets.load_dataset("parquet", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(loaded.features["image"], datasets.Image)
    rows = rows_of(demo.folder)
    assert loaded["label"][:] == [int(row["label"] == "Roadwork") for row in rows]
    assert [lat is None for lat in loaded["latitude"][:]] == [row["latitude"] == "" for row in rows]
    assert [info["vid_id"] for info in loaded["video_info"][:]] == [row["sequence_id"] for row in rows]
    assert None in loaded["weather"][:]
    for i in (0, 41, 81):
        with Image.open(demo.folder / rows[i]["filename"]) as picture:
            np.testing.assert_array_equal(np.asarray(loaded[i]["image"]), np.asarray(picture))
    first = pq.read_table(shards[0])["image"][0].as_py()
    assert first["bytes"] == (demo.folder / "images" / first["path"]).read_bytes()
    assert Image.open(io.BytesIO(first["bytes"])).format == "JPEG"


@pytest.mark.parametrize("images", [1, 5, 24, 100, 4800])
def test_plans_keep_their_shares(images):
    sequences = plan_sequences(images, seed=0)
    assert sum(sequence.frames for sequence in sequences) == images
    assert len({sequence.name for sequence in sequences}) == len(sequences)
    for city in CITIES:
        labels = [sequence.label for sequence in sequences if sequence.city is city]
        assert abs(2 * sum(labels) - len(labels)) <= 1
    if images == 4800:
        forms = [sequence.gps_form for sequence in sequences]
        assert [forms.count(form) for form in ("none", "text", "columns")] == [120, 120, 960]


def test_file_names_do_not_reveal_the_label():
    sequences = plan_sequences(4800, seed=0)
    numbers = np.array([int(sequence.name[-4:]) for sequence in sequences])
    labels = np.array([sequence.label for sequence in sequences])
    for feature in (numbers, numbers % 2, numbers % 4, np.arange(len(labels)) % 2):
        assert abs(np.corrcoef(feature, labels)[0, 1]) < 0.1


def test_deployment_lies_where_few_rows_are(demo):
    collection = json.loads((demo.folder / "deployment.geojson").read_text(encoding="utf-8"))
    points = np.array([feature["geometry"]["coordinates"][::-1] for feature in collection["features"]])
    assert collection["type"] == "FeatureCollection"
    assert len(points) == demo.deployment_points == 200
    sequences = plan_sequences(4800, seed=0)
    places = np.array([(s.latitude, s.longitude) for s in sequences])
    is_near = (np.abs(places[:, None] - points[None]).max(-1) < 0.5).any(1)
    assert 0.05 < is_near.mean() < 0.2
    assert len({s.city.name for s, near in zip(sequences, is_near, strict=True) if near}) == 3


def test_folder_with_something_in_it_is_rejected_and_kept(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="empty folder"):
        generate_demo_data(tmp_path, images=4, size=SIZE, processes=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"images": 0}, r"images.*\b0\b"),
        ({"size": (10, 120)}, "10x120"),
        ({"fmt": "zip"}, "'zip'"),
        ({"seed": -1}, "-1"),
        ({"geo_shift": 1.5}, r"geo_shift.*1\.5.*\b0 .* 1\b"),
        ({"geo_shift": float("nan")}, "geo_shift.*nan"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, argument, message):
    with pytest.raises(DataError, match=message):
        generate_demo_data(tmp_path / "data", **argument)


def test_interrupted_run_leaves_nothing(tmp_path):
    def interrupt(done, total):
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_demo_data(tmp_path / "data", images=40, size=SIZE, processes=1, on_progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_picture(tmp_path):
    seen = []
    out = tmp_path / "data"
    out.mkdir()
    generate_demo_data(out, images=6, size=SIZE, processes=1, on_progress=lambda *counts: seen.append(counts))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_elsewhere_is_another_city_seen_by_another_camera(demo, tmp_path):
    other = generate_demo_data(tmp_path / "data", images=40, size=SIZE, seed=1, elsewhere=True, processes=1)
    assert not set(other.cities) & {city.name for city in CITIES}
    assert other.positives == 20
    assert "--format local --elsewhere" in (other.folder / "README.txt").read_text(encoding="utf-8")
    means = []
    for folder in (demo.folder, other.folder):
        photos = [np.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (folder / "images").iterdir()]
        blue = np.mean([photo[..., 2].mean() / photo[..., 0].mean() for photo in photos])
        means.append((blue, np.mean([np.abs(np.diff(photo, axis=1)).mean() for photo in photos])))
    assert means[1][0] < 0.8 * means[0][0]  # yellower
    assert means[1][1] < 0.8 * means[0][1]  # softer
    points = json.loads((other.folder / "deployment.geojson").read_text())["features"]
    places = np.array([point["geometry"]["coordinates"] for point in points])
    assert np.abs(places - [31.2, 30.0]).max() < 1
