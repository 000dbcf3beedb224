import numpy as np
import pandas as pd
import pytest
import torch

from roadwork.core.errors import DataError, WiringError
from roadwork.data.table import SampleTable
from roadwork.metrics.decision import softmax_roadwork
from roadwork.metrics.predictions import COLUMNS, build_predictions, read_predictions, write_predictions


def make_table(slices=None, rows=3):
    return SampleTable(
        ids=np.array([f"id-{row}" for row in range(rows)]),
        filenames=np.array([f"{row}.jpg" for row in range(rows)]),
        labels=np.arange(rows) % 2,
        gps=np.array([[52.5, 13.4], [np.nan, np.nan], [48.8, 2.3]])[:rows],
        sequence_ids=np.array([""] * rows),
        slices=pd.DataFrame(slices or {}, index=range(rows)),
    )


def make_predictions(slices=None, groups=(0, 0, 1), logits=((2.0, -1.0), (0.0, 0.0), (-3.0, 4.0))):
    splits = np.array(["val_test"] * 3)
    distance = np.array([1.0, np.nan, 3.0])
    return build_predictions(make_table(slices), splits, np.array(groups), np.array(logits, dtype=np.float32), distance)


@pytest.mark.parametrize("groups", [(0, 0, 1), ("a", "a", "b")], ids=["whole numbers", "text"])
def test_the_table_survives_its_file(tmp_path, groups):
    frame = make_predictions({"weather": ["rain", None, "sun"], "lanes": [2, 3, 4]}, groups)
    write_predictions(frame, tmp_path / "predictions.parquet")
    again = read_predictions(tmp_path / "predictions.parquet")
    assert tuple(again.columns) == (*COLUMNS, "weather", "lanes")
    pd.testing.assert_frame_equal(again, frame, check_dtype=False)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "predictions.parquet"
    write_predictions(make_predictions(), path)
    before = path.read_bytes()

    def fail_halfway(_frame, target, **_options):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail_halfway)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(make_predictions(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_probability_is_torch_softmax_and_never_overflows():
    logits = np.vstack([np.random.default_rng(0).normal(0, 5, (100, 2)), [[-2000.0, 2000.0], [2000.0, -2000.0]]])
    expected = torch.from_numpy(logits).softmax(dim=1)[:, 1].numpy()
    np.testing.assert_allclose(softmax_roadwork(logits), expected, rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_names_the_row(bad):
    with pytest.raises(WiringError, match=r"1 of 3.*id-1\b"):
        make_predictions(logits=((2.0, -1.0), (bad, 0.0), (-3.0, 4.0)))


def test_arguments_of_different_length_are_refused():
    with pytest.raises(DataError, match="3 rows"):
        build_predictions(make_table(), np.array(["train"] * 2), np.arange(3), np.zeros((3, 2)), np.zeros(3))


def test_further_columns_never_shadow_the_schema():
    slices = {"label": ["x", "y", "z"], "data_label": [1, 2, 3], "probability_calibrated": [4, 5, 6]}
    frame = make_predictions(slices)
    assert frame["label"].tolist() == [0, 1, 0]
    assert frame["data_data_label"].tolist() == ["x", "y", "z"]
    assert frame["data_label"].tolist() == [1, 2, 3]
    assert frame["data_probability_calibrated"].tolist() == [4, 5, 6]


def test_a_column_of_mixed_types_is_written_as_text(tmp_path):
    frame = make_predictions({"tag": [1, "two", None]})
    write_predictions(frame, tmp_path / "p.parquet")
    tags = read_predictions(tmp_path / "p.parquet")["tag"]
    assert tags.dropna().tolist() == ["1", "two"]
    assert tags.isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns=["group"]), r"column.*\bgroup\b"),
        (lambda frame: frame.assign(label=[0.0, 1.0, 0.0]), r"label.*float64"),
        (lambda frame: frame.assign(label=[0, 1, 2]), r"label.*\[0, 1, 2\]"),
        (lambda frame: frame.assign(probability=[0.1, 0.2, 1.5]), r"probability.*0\.1.*1\.5"),
        (lambda frame: frame.assign(logit_none=[0.1, np.nan, 1.5]), r"logit_none.*row 1"),
        (lambda frame: frame.assign(latitude=["a", "b", "c"]), "latitude"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, change, message):
    change(make_predictions()).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(DataError, match=message):
        read_predictions(tmp_path / "p.parquet")


def test_absent_and_broken_files_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_predictions(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match="parquet"):
        read_predictions(tmp_path / "p.parquet")
