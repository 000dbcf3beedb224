"""The dataset, splits and deployment of a configuration."""

import json
import logging

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data import source
from roadwork.data.deployment import find_deployment
from roadwork.data.open import find_groups, find_splits, splits_path
from roadwork.data.source import read_dataset
from roadwork.data.splitting.check import check_splits
from roadwork.data.splitting.splits import Splits, make_splits
from roadwork.demo import DemoSummary
from roadwork.settings import SPLIT_NAMES


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROADWORK_DATA", raising=False)


def settings(**data):
    # Each of the 40 sequences is a group: the images below are identical, and lie on one meridian.
    splitting = {"buffer_km": 0, "near_duplicates": False} | data.pop("splitting", {})
    return to_settings(OmegaConf.create({"data": {"splitting": splitting} | data}))


def read(config):
    """The table and its groups."""
    table, images = read_dataset(config.data)
    return table, find_groups(config.data, table, images)


def split(config, table, groups, **changes) -> Splits:
    return make_splits(table, groups, changes.get("ratios", config.data.splits), config.data.splitting)


def write_data(root, n=80):
    root.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(root / "a.png")
    rows = [
        {
            "id": str(i),
            "filename": f"{i}/a.png",
            "label": i % 2,
            "lat": float(i % 50),
            "lon": 1.0,
            "sequence_id": f"s{i // 2}",
        }
        for i in range(n)
    ]
    for row in rows:
        row["label"] = int(row["sequence_id"][1:]) % 2
    (root / "labels.json").write_text(json.dumps(rows))


@pytest.fixture
def drawn(monkeypatch):
    """The roots of generated demo data."""
    roots = []

    def generate(root, *, on_progress):
        roots.append(root)
        write_data(root)
        on_progress(1, 2)
        return DemoSummary(root, 80, 40, 40, {"Berlin": 80}, 200, 8, 0)

    monkeypatch.setattr(source, "generate_demo_data", generate)
    return roots


def test_default_demo_data_is_generated_once_and_logged(drawn, caplog):
    with caplog.at_level(logging.INFO):
        assert len(read_dataset(settings().data)[0]) == 80
    assert "demo data" in caplog.text
    assert "40 sequences (Berlin 80)" in caplog.text
    read_dataset(settings().data)
    assert len(drawn) == 1


def test_named_root_is_never_created(drawn, monkeypatch):
    with pytest.raises(DataError, match=r"data\.root.*photos.*folder"):
        read_dataset(settings(root="photos").data)
    monkeypatch.setenv("ROADWORK_DATA", "data/demo")
    with pytest.raises(DataError, match=r"data\.root.*data/demo.*folder"):
        read_dataset(settings().data)
    assert drawn == []


def test_splits_are_found_in_their_order(tmp_path):
    write_data(tmp_path / "photos")
    config = settings(root="photos")
    table, groups = read(config)
    made = split(config, table, groups)
    assert find_splits(config, table, groups).source == "the new splits"
    for path in ("outputs/splits.json", "photos/splits.json", "mine.json"):
        made.write(tmp_path / path)
        named = settings(root="photos", splits_file="mine.json" if path == "mine.json" else None)
        assert find_splits(named, table, groups).source == path
        assert find_splits(named, table, groups).ids == made.ids
    assert splits_path(settings(root="photos")).as_posix() == "photos/splits.json"
    assert splits_path(settings(mode="huggingface")).as_posix() == "outputs/splits.json"


def test_missing_or_foreign_splits_file_is_rejected(tmp_path):
    write_data(tmp_path / "photos")
    table, groups = read(settings(root="photos"))
    with pytest.raises(ConfigError, match=r"data\.splits_file.*gone\.json.*`roadwork split`"):
        find_splits(settings(root="photos", splits_file="gone.json"), table, groups)
    split(settings(), table, groups).write(tmp_path / "photos" / "splits.json")
    with pytest.raises(SplitError, match=r"data.*`roadwork split`"):
        find_splits(settings(root="photos"), table.take(np.arange(40)), groups)


def test_differing_split_ratios_are_warned_about(tmp_path, caplog):
    write_data(tmp_path / "photos")
    table, groups = read(settings(root="photos"))
    ratios = {"train": 0.4, "val_select": 0.2, "val_calib": 0.2, "val_test": 0.2}
    split(settings(), table, groups, ratios=ratios).write(tmp_path / "photos" / "splits.json")
    assert find_splits(settings(root="photos"), table, groups).ratios == ratios
    assert "`roadwork split`" in caplog.text
    caplog.clear()
    find_splits(settings(root="photos", splits=ratios, splitting={"buffer_km": 2.0}), table, groups)
    assert "data.splitting.buffer_km is 2.0" in caplog.text
    caplog.clear()
    find_splits(settings(root="photos", splits=ratios), table, groups)
    assert not caplog.text


def test_user_splits_by_file_name_and_row_number(tmp_path):
    write_data(tmp_path / "photos")
    classes = {"clear": 0, "works": 1}
    config = settings(root="photos", class_names=classes)
    table, groups = read(config)
    names = split(config, table, groups).names_by_row(table)
    path = tmp_path / "photos" / "splits.json"
    path.write_text(json.dumps({name: [{"filename": "a.png", "label": "works"}] for name in SPLIT_NAMES}))
    with pytest.raises(SplitError, match=r"a\.png"):  # every folder has one of that name
        find_splits(config, table, groups)
    lists = {name: np.flatnonzero(names == name).tolist() for name in SPLIT_NAMES}
    path.write_text(json.dumps(lists))
    assert not find_splits(config, table, groups).is_ours


def test_splits_survive_label_corrections(tmp_path):
    """A corrected label in train must not change val_test."""
    write_data(tmp_path / "photos")
    table, groups = read(settings(root="photos"))
    made = split(settings(root="photos"), table, groups)
    made.write(tmp_path / "photos" / "splits.json")
    mended, dropped = made.ids["train"][0], made.ids["train"][1]
    now = {row_id: table.labels[table.ids == row_id][0] for row_id in (mended, dropped)}
    (tmp_path / "audit.csv").write_text(
        f"id,label,corrected_label\n{mended},{now[mended]},{1 - now[mended]}\n{dropped},{now[dropped]},drop\n"
    )
    config = settings(root="photos", label_corrections="audit.csv")
    corrected, groups = read(config)
    splits = find_splits(config, corrected, groups)
    check_splits(splits, corrected, groups)
    assert (corrected.labels != table.labels).sum() == 1
    assert splits.ids["val_test"] == made.ids["val_test"]
    assert set(made.ids["train"]) - set(splits.ids["train"]) == {dropped}
    assert splits.set_aside == [dropped]
    for strategy in ("geographic", "random"):  # a new split also excludes the dropped row
        config.data.splitting.strategy = strategy
        anew = make_splits(corrected, groups, config.data.splits, config.data.splitting)
        assert anew.set_aside == [dropped]
        assert check_splits(anew, corrected, groups).set_aside == 1


def test_deployment_comes_from_file_beside_data_split_or_path(tmp_path):
    write_data(tmp_path / "photos")
    table, _ = read_dataset(settings(root="photos").data)
    names = np.array(["train"] * 70 + ["val_test"] * 10, dtype=object)

    def points(target="auto"):
        return find_deployment(settings(root="photos", gps_sampling={"target": target}).data, table, names)

    found, origin = points()
    assert origin == "the coordinates of val_test"
    np.testing.assert_array_equal(found, table.gps[70:])
    assert len(points("train")[0]) == 70
    (tmp_path / "photos" / "deployment.csv").write_text("lat,lon\n48.1,11.5\n")
    found, origin = points()
    assert found.tolist() == [[48.1, 11.5]]
    assert origin.endswith("deployment.csv")
    assert points("photos/deployment.csv")[0].tolist() == [[48.1, 11.5]]
    with pytest.raises(ConfigError, match=r"target.*'gone\.csv'.*auto; train, "):
        points("gone.csv")
    names[:] = "train"
    with pytest.raises(ConfigError, match=r"val_test.*GPS.*data\.gps_sampling\.enabled=false"):
        points("val_test")
