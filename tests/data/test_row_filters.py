"""The row filter keeps the same rows as the StreetVision validator."""

import io
import json
import pickle

import datasets
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError, DataError
from roadwork.data.images import FileImages, decode_image, identify_image, quick_check
from roadwork.data.open import find_groups, find_splits
from roadwork.data.source import read_dataset

DESCRIPTIONS = ["a digger", None, "", "  ", "cones", None, "a sunny street", None]
LABELS = [1, 1, 1, 1, 1, 0, 0, 0]
KEPT = ["0", "4", "5", "7"]


@pytest.fixture(autouse=True)
def _own_hf_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def encoded(row):
    """An image with the brightness of its row number."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (row * 20,) * 3).save(file, "PNG")
    return file.getvalue()


def rows(**changes):
    count = len(LABELS)
    return {
        "id": [str(row) for row in range(count)],
        "filename": [f"{row}.png" for row in range(count)],
        "label": LABELS,
        "latitude": [50.0 + row for row in range(count)],
        "longitude": [8.0] * count,
        "scene_description": DESCRIPTIONS,
    } | changes


def write_csv(root, columns):
    pd.DataFrame(columns).to_csv(root / "labels.csv", index=False)


def write_json(root, columns):
    (root / "labels.json").write_text(json.dumps(pd.DataFrame(columns).replace({np.nan: None}).to_dict("records")))


def local(write):
    def make(root, columns, **data):
        root.mkdir()
        for row, name in enumerate(columns["filename"]):
            (root / name).write_bytes(encoded(row))
        write(root, columns)
        return to_settings(OmegaConf.create({"data": {"root": str(root)} | data}))

    return make


def parquet(root, columns, **data):
    root.mkdir()
    images = [{"bytes": encoded(row), "path": None} for row in range(len(columns["id"]))]
    pd.DataFrame(columns | {"image": images}).to_parquet(root / "train.parquet")
    hub = {"mode": "huggingface", "hub": {"name": str(root)}}
    return to_settings(OmegaConf.create({"data": hub | data}))


SOURCES = {"csv": local(write_csv), "json": local(write_json), "parquet": parquet}


@pytest.fixture(params=SOURCES)
def make(request):
    return SOURCES[request.param]


def test_kept_rows_have_their_own_images(tmp_path, make):
    table, images = read_dataset(make(tmp_path / "data", rows(), row_filter="streetvision").data)
    assert table.ids.tolist() == KEPT
    assert table.labels.tolist() == [1, 1, 0, 0]
    assert table.gps[:, 0].tolist() == [50, 54, 55, 57]
    assert [decode_image(images.read(row), 8)[4, 4, 0] // 20 for row in range(4)] == [0, 4, 5, 7]
    assert [quick_check(images, row) for row in range(4)] == [None] * 4
    assert (
        "data.row_filter=streetvision excludes 4 of 8 rows: "
        "3 Roadwork without, 1 None with a scene_description." in table.notes
    )


def test_all_rows_are_read_without_the_filter(tmp_path, make):
    table, _ = read_dataset(make(tmp_path / "data", rows()).data)
    assert len(table) == 8
    assert not any("row_filter" in note for note in table.notes)


def test_missing_filter_column_lists_the_existing_columns(tmp_path, make):
    columns = {name: values for name, values in rows(weather=["rain"] * 8).items() if name != "scene_description"}
    with pytest.raises(DataError, match=r"scene_description.*weather"):
        read_dataset(make(tmp_path / "data", columns, row_filter="streetvision").data)


def test_filter_without_remaining_rows_is_rejected(tmp_path, make):
    columns = rows(scene_description=["x" if label == 0 else None for label in LABELS])
    with pytest.raises(DataError, match=r"\b8 rows"):
        read_dataset(make(tmp_path / "data", columns, row_filter="streetvision").data)


def test_unknown_filter_is_rejected():
    with pytest.raises(ConfigError, match=r"data\.row_filter.*'streetvison'.*none, streetvision"):
        to_settings(OmegaConf.create({"data": {"row_filter": "streetvison"}}))


def test_fingerprint_and_splits_are_of_the_filtered_rows(tmp_path):
    count = 80
    columns = {
        "id": [str(row) for row in range(count)],
        "filename": [f"{row}.png" for row in range(count)],
        "label": [row // 2 % 2 for row in range(count)],
        "latitude": [float(row % 60) for row in range(count)],
        "longitude": [1.0] * count,
        "scene_description": ["x" if row // 2 % 2 and row % 5 else None for row in range(count)],
    }
    splitting = {"near_duplicates": False, "buffer_km": 0}
    settings = SOURCES["parquet"](tmp_path / "data", columns, row_filter="streetvision", splitting=splitting)
    plain = SOURCES["parquet"](tmp_path / "other", columns, splitting=splitting)
    (table, images), (whole, _) = read_dataset(settings.data), read_dataset(plain.data)
    assert len(table) < len(whole)
    assert table.fingerprint() != whole.fingerprint()
    splits = find_splits(settings, table, find_groups(settings.data, table, images))
    assert sorted(row_id for ids in splits.ids.values() for row_id in ids) == sorted(table.ids)


def test_selected_images_can_be_pickled(tmp_path, make):
    _, images = read_dataset(make(tmp_path / "data", rows(), row_filter="streetvision").data)
    if isinstance(images, FileImages):
        assert [path.stem for path in images.paths] == KEPT
    copy = pickle.loads(pickle.dumps(images))
    assert [identify_image(copy, row) for row in range(4)] == [identify_image(images, row) for row in range(4)]
