"""`roadwork calibrate`: the rows it reads, the files it writes, and its output."""

import json

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.special import expit, logit
from sklearn.metrics import matthews_corrcoef
from typer.testing import CliRunner

import roadwork.cli.evaluate  # noqa: F401 -- registers the command
from roadwork.calibration.calibrate import CalibrationOptions, calibrate
from roadwork.calibration.run import calibrate_run
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.metrics.decision import softmax_roadwork
from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.runs.run import Run


def make_frame(groups_each=90, shift=2.0, temperature=3.0, seed=0):
    """An overconfident detector whose logits are shifted towards Roadwork, over three splits."""
    rng = np.random.default_rng(seed)
    frames = []
    for split in ("val_select", "val_calib", "val_test"):
        groups = np.repeat(np.arange(groups_each), 3)
        labels = rng.integers(0, 2, groups_each)[groups]
        noise = rng.normal(0, 1, groups_each)[groups] + rng.normal(0, 1, len(groups))
        logits = np.stack([np.zeros(len(groups)), temperature * (2 * (2 * labels - 1) + noise + shift)], axis=1)
        frames.append(
            pd.DataFrame(
                {
                    "id": [f"{split}-{row}" for row in range(len(groups))],
                    "filename": "x.jpg",
                    "split": split,
                    "label": labels,
                    "logit_none": logits[:, 0],
                    "logit_roadwork": logits[:, 1],
                    "probability": softmax_roadwork(logits),
                    "latitude": np.nan,
                    "longitude": np.nan,
                    "group": [f"{split}-{group}" for group in groups],
                    "distance_km": np.nan,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def calibrated(frame, **options):
    return calibrate(frame, CalibrationOptions(**options), draws=200, seed=0)


@pytest.fixture
def run(tiny_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    OmegaConf.save(tiny_config("evaluation.bootstrap_draws=200"), folder / "config.yaml")
    write_predictions(make_frame(), folder / "predictions.parquet")
    write_json(folder / "results.json", {"val_test": {"mcc": 0.5, "leaks": ["a leak"]}})
    Run(folder).write_manifest(val_test_openings=1)
    return folder


def test_only_val_calib_is_read():
    frame, rng = make_frame(), np.random.default_rng(1)
    before = calibrated(frame)
    elsewhere = frame["split"] != "val_calib"
    frame.loc[elsewhere, "label"] = rng.permutation(frame.loc[elsewhere, "label"])
    frame.loc[elsewhere, ["logit_none", "logit_roadwork"]] = rng.normal(size=(elsewhere.sum(), 2))
    assert calibrated(frame) == before
    here = ~elsewhere
    frame.loc[here, "label"] = rng.permutation(frame.loc[here, "label"])
    assert calibrated(frame)["sha256_of_rows"] != before["sha256_of_rows"]


def test_calibration_ignores_row_order():
    frame = make_frame()
    assert calibrated(frame.sample(frac=1, random_state=0)) == calibrated(frame)


def test_calibration_finds_temperature_and_threshold():
    found = calibrated(make_frame(groups_each=300))
    assert found["temperature_fit"]["kept"]
    assert found["threshold_fit"]["kept"]
    # The logits are shifted by 2, then multiplied by 3.
    assert logit(found["threshold"]) == pytest.approx(2 * 3 / found["temperature"], abs=0.8)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert 100 < len(found["curve"]) <= 203
    best = max(found["curve"], key=lambda point: point["mcc"])
    assert best["mcc"] == pytest.approx(found["threshold_fit"]["best_mcc_in_sample"])


def test_abstention_uses_groups_of_its_own():
    found = calibrated(make_frame())
    assert found["rows_fitted"]["groups"] + found["abstain"]["groups"] == found["rows"]["groups"] == 90
    few = calibrated(make_frame(groups_each=30))  # a third of 30 groups is less than the 19 needed
    assert few["rows_fitted"] == few["rows"]
    assert not few["abstain"]["promised"]
    assert "19 groups" in few["abstain"]["sentence"]


def test_prior_moves_the_threshold():
    frame = make_frame(groups_each=300)
    rare, balanced = calibrated(frame, prior=0.05), calibrated(frame, prior=0.5)
    assert (rare["prior"], rare["prior_is_the_samples"]) == (0.05, False)
    assert rare["threshold_fit"]["best"] > balanced["threshold_fit"]["best"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame[frame["split"] != "val_calib"], r"val_calib.*val_select, val_test"),
        (lambda frame: frame[(frame["split"] != "val_calib") | (frame["label"] == 1)], "Roadwork"),
        (lambda frame: frame.assign(logit_none=np.inf), "not finite"),
    ],
)
def test_unusable_rows_are_rejected(change, message):
    with pytest.raises(DataError, match=message):
        calibrated(change(make_frame()))


@pytest.mark.parametrize("options", [{"risk": 0}, {"risk": 1}])
def test_risk_out_of_range_is_rejected(options):
    with pytest.raises(ConfigError, match="--risk"):
        CalibrationOptions(**options)


def test_calibrate_run_writes_files_and_counts_opening(run):
    calibration, result = calibrate_run(run, CalibrationOptions())
    assert json.loads((run / "calibration.json").read_text()) == calibration
    frame = read_predictions(run / "predictions.parquet")
    difference = frame["logit_roadwork"] - frame["logit_none"]
    np.testing.assert_allclose(
        frame["probability_calibrated"], expit(difference / calibration["temperature"]), atol=1e-12
    )
    test = frame[frame["split"] == "val_test"]
    decisions = test["probability_calibrated"] >= calibration["threshold"]
    assert result["mcc"] == pytest.approx(matthews_corrcoef(test["label"], decisions))
    results = json.loads((run / "results.json").read_text())
    assert results["val_test"] == {"mcc": 0.5, "leaks": ["a leak"]}
    assert results["val_test_calibrated"] == result
    assert (result["openings"], result["leaks"]) == (2, ["a leak"])
    manifest = Run(run).read_manifest()
    assert manifest["val_test_openings"] == 2
    for name in ("calibration.json", "predictions.parquet", "results.json"):
        assert manifest["sha256"][name] == sha256_of(run / name)


def test_second_calibration_changes_only_the_count(run):
    first, _ = calibrate_run(run, CalibrationOptions())
    files = [(run / name).read_bytes() for name in ("calibration.json", "predictions.parquet")]
    second, result = calibrate_run(run, CalibrationOptions())
    assert second == first
    assert [(run / name).read_bytes() for name in ("calibration.json", "predictions.parquet")] == files
    assert result["openings"] == 3


def test_no_opening_without_val_test_rows(run):
    frame = make_frame()
    write_predictions(frame[frame["split"] == "val_calib"], run / "predictions.parquet")
    before = (run / "results.json").read_bytes()
    assert calibrate_run(run, CalibrationOptions())[1] is None
    assert (run / "results.json").read_bytes() == before
    assert Run(run).read_manifest()["val_test_openings"] == 1


def test_failed_calibration_leaves_the_run_unchanged(run):
    frame = make_frame()
    write_predictions(frame[frame["split"] == "val_test"], run / "predictions.parquet")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(DataError, match="val_calib"):
        calibrate_run(run, CalibrationOptions())
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_command_prints_text_and_json(run):
    shown = CliRunner().invoke(app, ["calibrate", str(run), "--prior", "0.05", "--cost-miss", "20"])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    for part in ("val_calib: 270 rows in 90 groups", "NLL", "Temperature", "Threshold", "Abstention", "0.05 of photos",
                 "A miss costs 20", "val_test at", "opened 2 time(s)", "Leaks a leak"):  # fmt: skip
        assert part in text
    printed = CliRunner().invoke(app, ["calibrate", str(run), "--json"])
    assert set(json.loads(printed.stdout)) == {"calibration", "val_test_calibrated"}


def test_unevaluated_run_is_rejected(run):
    (run / "predictions.parquet").unlink()
    result = CliRunner().invoke(app, ["calibrate", str(run)])
    assert isinstance(result.exception, DataError)
    assert "roadwork evaluate" in str(result.exception)
