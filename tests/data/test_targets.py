from dataclasses import replace

import datasets
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.deployment import find_deployment
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings, GpsSamplingSettings, HubSettings

N = 8
GPS = np.array([[50.0 + row, 10.0 + row] for row in range(N)])
GPS[7] = np.nan


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def table_of(**slices):
    ids = np.array([f"r{row}" for row in range(N)], dtype=object)
    empty = np.full(N, "", dtype=object)
    return SampleTable(ids, ids, np.arange(N) % 2, GPS, empty, pd.DataFrame(slices, index=range(N)))


def found(target, *, mode="local", root="photos", name="hub", table=None, columns=None):
    data = DataSettings(mode=mode, root=str(root), hub=HubSettings(name=str(name)), columns=columns or {})
    data.gps_sampling = GpsSamplingSettings(target=target)
    split_names = np.array(["train"] * 5 + ["val_test"] * 3, dtype=object)
    return find_deployment(data, table or table_of(), split_names)


def test_auto_target_is_a_file_or_val_test(tmp_path):
    points, origin = found("auto", root=tmp_path)
    np.testing.assert_array_equal(points, GPS[5:7])  # row 7 has no GPS
    assert origin == "the coordinates of val_test"
    (tmp_path / "deployment.csv").write_text("lat,lon\n1,2\n")
    assert found("auto", root=tmp_path)[0].tolist() == [[1, 2]]
    (tmp_path / "deployment.geojson").write_text('{"type": "Point", "coordinates": [4, 3]}')
    points, origin = found("auto", root=tmp_path)
    assert points.tolist() == [[3, 4]]
    assert origin == str(tmp_path / "deployment.geojson")


def test_target_can_be_a_split_or_a_file(tmp_path):
    assert len(found("train")[0]) == 5
    with pytest.raises(ConfigError, match=r"target.*val_calib.*GPS"):
        found("val_calib")
    (tmp_path / "here.csv").write_text("lat,lon\n1,2\n")
    assert found(str(tmp_path / "here.csv"))[0].tolist() == [[1, 2]]


@pytest.mark.parametrize("as_configured", [list, OmegaConf.create])
def test_points_in_the_configuration(as_configured):
    points, origin = found(as_configured([[52.37, 4.90], [-35.68, -139.65], [0, 180]]))
    assert points.tolist() == [[52.37, 4.90], [-35.68, -139.65], [0, 180]]
    assert points.dtype == np.float64
    assert origin == "3 points of data.gps_sampling.target"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ([], "empty"),
        ([52.37, 4.90], r"52\.37.*pair"),
        ([[52.37]], r"\[52\.37\].*pair"),
        ([[52.37, 4.9, 1.0]], r"\[52\.37, 4\.9, 1\.0\].*pair"),
        ([["here", "there"]], r"\['here', 'there'\].*pair"),
        ([[True, 4.9]], r"\[True, 4\.9\].*pair"),
        (["52"], "'52'.*pair"),
        ([[1, 2], [None, 4.9]], r"\[None, 4\.9\].*pair"),
        ([[139.65, 35.68]], r"\[139\.65, 35\.68\].*±90"),
        ([[0, 180.5]], r"\[0, 180\.5\].*±180"),
        ([[float("nan"), 4.9]], r"\[nan, 4\.9\].*±90"),
        ([[float("inf"), 4.9]], r"\[inf, 4\.9\].*±90"),
    ],
)
def test_unusable_points_are_named(target, message):
    with pytest.raises(ConfigError, match=message) as caught:
        found(target)
    assert "data.gps_sampling.target" in str(caught.value)


@pytest.mark.parametrize("target", ["gone.csv", "test", "", None, 5, {"lat": 1}])
def test_unknown_target_lists_the_allowed_values(target):
    with pytest.raises(ConfigError, match=r"auto; train, val_select, .*dataset:NAME.*GeoJSON.*\[\[52\.37"):
        found(target)


def test_datasets_own_split_in_the_local_mode():
    table = table_of(split=["train"] * 3 + [" test"] * 5, weather="rain")
    points, origin = found("dataset:test", table=table)
    np.testing.assert_array_equal(points, GPS[3:7])
    assert origin == "the dataset's own split test"
    with pytest.raises(ConfigError, match=r"dataset:tset.*`split`.*test, train"):
        found("dataset:tset", table=table)
    with pytest.raises(ConfigError, match=r"photos.*`split`"):
        found("dataset:test")
    with pytest.raises(ConfigError, match=r"dataset:test.*GPS"):
        found("dataset:test", table=table_of(split=["train"] * 7 + ["test"]))


def hub_folder(path, **columns):
    """Parquet files of a train and a test split with the hub's names; the images are not decodable."""
    image = {"image": [{"bytes": b"no jpeg", "path": None}] * 3}
    features = datasets.Features(image=datasets.Image(), **{n: datasets.Value(t) for n, (t, _) in columns.items()})
    rows = image | {name: values for name, (_, values) in columns.items()}
    path.mkdir()
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path / f"{split}-00000-of-00001.parquet")


def test_hugging_face_split_needs_no_label_and_no_image(tmp_path):
    hub_folder(tmp_path / "hub", latitude=("float64", [1.0, None, 3.0]), longitude=("float64", [2.0, None, 4.0]))
    points, origin = found("dataset:test", mode="huggingface", name=tmp_path / "hub")
    assert points.tolist() == [[1, 2], [3, 4]]
    assert origin == "the dataset's own split test"
    with pytest.raises(DataError, match="split 'holdout'"):
        found("dataset:holdout", mode="huggingface", name=tmp_path / "hub")


def test_gps_text_and_renamed_columns_of_that_split(tmp_path):
    hub_folder(tmp_path / "text", where=("string", ["(1, 2)", "", "3, 4"]))
    with pytest.raises(DataError, match=r"image, where.*data\.columns\.latitude=NAME"):
        found("dataset:test", mode="huggingface", name=tmp_path / "text")
    columns = {"gps": "where", "label": "a column that only the training split has"}
    points, _ = found("dataset:test", mode="huggingface", name=tmp_path / "text", columns=columns)
    assert points.tolist() == [[1, 2], [3, 4]]


def test_file_of_one_split_is_not_taken_for_another(tmp_path):
    hub_folder(tmp_path / "hub", latitude=("float64", [1.0, 2, 3]), longitude=("float64", [1.0, 2, 3]))
    with pytest.raises(DataError, match=r"one split.*'test'"):
        found("dataset:test", mode="huggingface", name=tmp_path / "hub" / "train-00000-of-00001.parquet")


def test_rows_near_the_deployment_only_if_exchanged(tmp_path, caplog):
    path = tmp_path / "deployment.csv"
    path.write_text("lat,lon\n52.5,13.4\n")
    table = table_of()
    found(str(path), table=replace(table, gps=np.full((len(table), 2), (52.6, 13.3))))
    assert not caplog.records
    found(str(path), table=replace(table, gps=np.full((len(table), 2), (13.3, 52.6))))
    assert f"{len(table)} of {len(table)} rows" in caplog.text
