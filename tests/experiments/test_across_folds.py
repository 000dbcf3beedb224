"""`roadwork calibrate --across`: its folds, and what it does with their predictions."""

import json
import shutil

import numpy as np
import pytest
from scipy.special import logit
from typer.testing import CliRunner

import roadwork.cli.evaluate  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError, DataError
from roadwork.experiments import cross_validation
from roadwork.experiments.cross_validation import plan_across, pool_across
from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.runs.run import Run


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return Run((tmp_path / "run").resolve())


def predict_folds(plan, offset=3.0, spread=1.5):
    """Writes predictions of all folds; the best cut of each region is near the offset."""
    template = read_predictions(plan.folder.parents[1] / "predictions.parquet")
    rng = np.random.default_rng(0)
    table = plan.dataset.table
    labels = dict(zip(table.ids, table.labels, strict=True))
    for fit in plan.fits:
        ids = fit.splits.ids["val_calib"]
        frame = template.iloc[np.arange(len(ids)) % len(template)].reset_index(drop=True)
        own = np.array([labels[row_id] for row_id in ids])
        margins = 2 * (2 * own - 1) + offset + rng.normal(0, spread, len(ids))
        frame = frame.assign(id=ids, label=own, logit_none=0.0, logit_roadwork=margins)
        fit.folder.mkdir(parents=True, exist_ok=True)
        write_predictions(frame.assign(split=fit.folder.name), fit.predictions_file)


def calibrate(run, column="city"):
    done = CliRunner().invoke(app, ["calibrate", str(run.folder), "--across", column, "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)["calibration"]


def test_folds_are_the_runs_own_training_without_a_region(run):
    plan = plan_across(run, "city")
    assert plan.folder == run.folder / "across/city"
    table, config = plan.dataset.table, run.read_config()
    city = dict(zip(table.ids, table.slices["city"], strict=True))
    own = json.loads(run.splits_file.read_text())["splits"]
    assert len(plan.fits) == 5
    for fit in plan.fits:
        assert set(fit.splits.ids["val_test"]) == set(own["val_test"])
        held_out = {city[row_id] for row_id in fit.splits.ids["val_calib"]}
        assert not held_out & {city[row_id] for name in ("train", "val_select") for row_id in fit.splits.ids[name]}
        assert (fit.cfg.training, fit.cfg.model) == (config.training, config.model)
    predict_folds(plan)
    across = pool_across(plan)
    assert len(across.rows) == sum(len(own[name]) for name in ("train", "val_select", "val_calib"))
    pooled = read_predictions(plan.folder / "oof_predictions.parquet")
    assert across.rows.groups.tolist() == [city[row_id] for row_id in pooled["id"]]


def test_out_of_region_predictions_decide_and_are_reused(run):
    before = run.read_calibration()
    plan = plan_across(run, "city")
    predict_folds(plan)
    found = calibrate(run)
    assert found["across"]["kept"]
    assert found["temperature"] * logit(found["threshold"]) == pytest.approx(3, abs=1)
    assert run.read_calibration() == found
    assert found["sha256_of_rows"] == before["sha256_of_rows"]
    predict_folds(plan, offset=0.0)
    again = calibrate(run)
    assert again["across"]["best"] != found["across"]["best"]
    assert not again["across"]["kept"]


def test_cells_are_regions_too(run):
    plan = plan_across(run, "h3")
    assert plan.folder.name == "h3"
    predict_folds(plan)
    across = calibrate(run, "h3")["across"]
    assert across["column"] == "h3"
    assert across["regions"] >= 5
    assert across["rows_without_region"] > 0  # some scenes lack GPS


def test_finished_folds_are_not_trained_again(run, monkeypatch):
    plan = plan_across(run, "city")
    predict_folds(plan)
    plan.fits[2].predictions_file.unlink()
    assert [fit.fold for fit in plan_across(run, "city").unfinished] == [2]
    trained = []
    monkeypatch.setattr(cross_validation, "train_fold", lambda _, fit: trained.append(fit) or predict_folds(plan))
    monkeypatch.setattr("roadwork.preflight.dry_run.run_dry", lambda *_: [])
    CliRunner().invoke(app, ["calibrate", str(run.folder), "--across", "city"])
    assert [fit.fold for fit in trained] == [2]


def test_changed_settings_or_data_are_not_reused(run):
    plan_across(run, "city")
    written = (run.folder / "config.yaml").read_text()
    (run.folder / "config.yaml").write_text(written.replace("lr: 0.001", "lr: 0.5"))
    with pytest.raises(ConfigError, match=r"training\.lr was 0\.001, now 0\.5.*remove .*across/city"):
        plan_across(run, "city")
    (run.folder / "config.yaml").write_text(written)
    run.write_manifest(data_fingerprint="sha256:other")
    with pytest.raises(DataError, match="fingerprint"):
        plan_across(run, "country")
    assert not (run.folder / "across/country").exists()


def test_manifest_leaves_the_folds_to_themselves(run):
    predict_folds(plan_across(run, "city"))
    run.write_manifest()
    assert not [name for name in run.read_manifest()["sha256"] if name.startswith("across")]


def test_columns_that_cannot_be_used_are_named(run):
    for column, part in (("town", "'town'.*city"), ("time_of_day", r"2 regions.*day \(\d+ rows\)")):
        with pytest.raises(ConfigError, match=f"--across .*{part}"):
            plan_across(run, column)
