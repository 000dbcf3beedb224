"""An export against the predictions of its run."""

import json
import shutil

import pytest

from roadwork.core.errors import DataError
from roadwork.export import verify as verify_run
from roadwork.export.export import export_run
from roadwork.export.replay import LARGE, write_large_photo
from roadwork.export.verify import VerifyOptions, verify_export
from roadwork.metrics.predictions import read_predictions, write_predictions


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_run):
    out = tmp_path_factory.mktemp("verify-run") / "model"
    export_run(tiny_run, out, format="hf")
    return out


@pytest.fixture
def run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


def against_run(exported, run, **options):
    return verify_export(exported, VerifyOptions(photos=[exported / "replay/00.jpg"], run=run, **options)).comparisons[
        0
    ]


@pytest.fixture
def opened(monkeypatch):
    """The ids of the rows whose photos are read."""
    ids, read = [], verify_run._read_photos
    monkeypatch.setattr(verify_run, "_read_photos", lambda run, wanted: (ids.extend(wanted), read(run, wanted))[1])
    return ids


def test_verification_reads_only_validation_rows(exported, run, opened):
    frame = read_predictions(run / "predictions.parquet")
    closed = set(frame.loc[frame["split"] == "val_test", "id"])
    comparison = against_run(exported, run, run_rows=0)
    assert comparison.is_right
    assert comparison.n == len(opened) == (frame["split"] != "val_test").sum()
    assert closed
    assert not closed & set(opened)


def test_rows_are_sampled_evenly(exported, run):
    frame = read_predictions(run / "predictions.parquet")
    assert against_run(exported, run, run_rows=7).n == 7
    assert len(frame) > 7


def test_predictions_of_another_network_are_rejected(exported, run):
    (run / "calibration.json").unlink()
    config = json.loads((exported / "config.json").read_text())
    other = shutil.copytree(exported, run.parent / "other")
    config["roadwork"] |= {"temperature": 1.0, "threshold": 0.5}
    (other / "config.json").write_text(json.dumps(config))
    frame = read_predictions(run / "predictions.parquet")
    frame["logit_roadwork"] *= -1
    frame["logit_none"] *= -1
    write_predictions(frame, run / "predictions.parquet")
    comparison = against_run(other, run, run_rows=20)
    assert not comparison.is_right


def test_other_calibration_is_rejected(exported, run):
    path = run / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"threshold": 0.123}))
    with pytest.raises(DataError, match=r"0\.123"):
        against_run(exported, run)


def test_changed_data_is_rejected(exported, run):
    path = run / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": "sha256:0"}))
    with pytest.raises(DataError, match="trained on other data"):
        against_run(exported, run)


def test_large_photo_has_twelve_megapixels(exported, tmp_path):
    from PIL import Image

    write_large_photo(exported / "replay/00.jpg", tmp_path / "large.jpg")
    with Image.open(tmp_path / "large.jpg") as image:
        assert image.size == LARGE
        assert image.width * image.height > 12_000_000
    assert (tmp_path / "large.jpg").stat().st_size > 2_000_000  # like a phone's photo
