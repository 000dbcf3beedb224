"""The reference sample that an export stores."""

import numpy as np
import pytest
from fixtures.detectors import make_run
from fixtures.untrained_runs import make_untrained_run

from roadwork.data.utils.geo import nearest_km
from roadwork.detector import two_sample
from roadwork.detector.familiarity import PLACE_DEGREES, REFERENCE_FILE, Reference
from roadwork.export.export import export_run
from roadwork.metrics.predictions import read_predictions


def test_reference_holds_unseen_and_fitted_rows(tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / "hf", format="hf", reference_photos=60)
    reference = Reference.read(tmp_path / "hf")
    assert len(reference.features) == len(reference.groups) == len(reference.facts) == 60
    assert reference.val_test["n"] > 0
    assert np.isfinite(reference.features).all()
    assert len(reference.sizes) == 0  # its held-out rows have too few groups
    assert reference.hours.sum() == 60
    assert len(reference.places) == 0


def test_places_are_stored_on_request(tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / "hf", format="hf", reference_photos=12, training_places=True)
    places = Reference.read(tmp_path / "hf").places * PLACE_DEGREES
    rows = read_predictions(tiny_run / "predictions.parquet")
    gps = rows.loc[rows["split"].isin(["val_select", "val_calib"]), ["latitude", "longitude"]].dropna().to_numpy()
    assert nearest_km(gps, places)[0].max() < 40


def test_reference_contains_no_name(tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / "hf", format="hf", reference_photos=60)
    data = (tmp_path / "hf" / REFERENCE_FILE).read_bytes()
    with np.load(tmp_path / "hf" / REFERENCE_FILE, allow_pickle=False) as stored:
        text = " ".join(str(stored[name]) for name in stored.files if stored[name].dtype.kind in "US")
    for column in ("id", "filename", "group"):
        for name in read_predictions(tiny_run / "predictions.parquet")[column].astype(str):
            assert name.encode() not in data
            assert name not in text


def test_frozen_run_draws_from_all_its_groups(demo_root, tmp_path, monkeypatch):
    monkeypatch.setattr(two_sample, "DRAWS", 20)
    run = make_run(tmp_path / "runs", demo_root, "training.freeze_backbone=true", "data.augmentation.train.mode=none")
    export_run(run, tmp_path / "hf", format="hf", reference_photos=100)
    reference = Reference.read(tmp_path / "hf")
    assert reference.sizes.tolist() == [8, 16]
    assert reference.limit(8) > 0


def test_no_reference_is_stored_if_unwanted(tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / "hf", format="hf", reference_photos=0)
    assert not (tmp_path / "hf" / REFERENCE_FILE).exists()


def test_run_without_its_data_is_exported_with_a_warning(tmp_path, caplog):
    export_run(make_untrained_run(tmp_path / "run"), tmp_path / "hf", format="hf")
    assert not (tmp_path / "hf" / REFERENCE_FILE).exists()
    assert "splits.json" in caplog.text


@pytest.mark.parametrize("form", ["hf", "onnx"])
def test_both_formats_store_the_same_features(form, tiny_run, tmp_path):
    export_run(tiny_run, tmp_path / form, format=form, reference_photos=12)
    export_run(tiny_run, tmp_path / "again", format="hf", reference_photos=12)
    first, second = Reference.read(tmp_path / form), Reference.read(tmp_path / "again")
    assert np.allclose(first.features, second.features, atol=0.01)
    assert np.array_equal(first.facts, second.facts)
