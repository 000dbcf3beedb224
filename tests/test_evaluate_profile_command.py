"""`roadwork evaluate RUN --profile`: what it writes, what it counts, and what it says."""

import io
import json
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf
from rich.console import Console
from scipy.special import expit
from sklearn.metrics import matthews_corrcoef
from typer.testing import CliRunner

import roadwork.cli.evaluate  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.config import load_yaml, to_settings
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of
from roadwork.data.images import UnreadableImageError
from roadwork.evaluation.streetvision import evaluate as predict
from roadwork.evaluation.streetvision.evaluate import evaluate_profile, format_profile, score_profile
from roadwork.metrics.predictions import read_predictions
from roadwork.runs.run import Run

CHALLENGES, NATIVE = "streetvision-2026-01", "streetvision-2026-05"


def copy_run(tiny_run, folder, **changes):
    """A run of its own; `changes` are of its configuration, with __ for a dot."""
    shutil.copytree(tiny_run, folder)
    cfg = OmegaConf.load(folder / "config.yaml")
    for key, value in {"evaluation__bootstrap_draws": 100, **changes}.items():
        OmegaConf.update(cfg, key.replace("__", "."), value)
    OmegaConf.save(cfg, folder / "config.yaml")
    return folder


@pytest.fixture(scope="module")
def judged(tiny_run, tmp_path_factory):
    """A run under both profiles, what the command said of each, and the run as it was before."""
    run = copy_run(tiny_run, tmp_path_factory.mktemp("judged") / "run")
    said = {}
    for profile in (CHALLENGES, NATIVE):
        shown = CliRunner().invoke(app, ["evaluate", str(run), "--profile", profile])
        assert shown.exit_code == 0, shown.output
        said[profile] = " ".join(shown.stdout.split())
    return run, said, tiny_run


def results_of(run):
    return json.loads((run / "results.json").read_text())


def challenges_of(run):
    return read_predictions(run / f"predictions_{CHALLENGES}.parquet")


def plain_rows(run):
    frame = read_predictions(run / "predictions.parquet")
    return frame[frame["split"] == "val_test"].reset_index(drop=True)


def change_calibration(run, **values):
    path = run / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_photo_is_asked_at_every_level(judged):
    run, _, _ = judged
    frame, plain, result = challenges_of(run), plain_rows(run), results_of(run)[f"val_test_{CHALLENGES}"]
    for level, rows in frame.groupby("challenge_level"):
        assert sorted(rows["id"]) == sorted(plain["id"])
        (found,) = (entry for entry in result["by_level"] if entry["level"] == level)
        decisions = rows["challenge_score"] > 0.5
        assert found["n"] == len(plain)
        assert found["errors"] == (rows["label"] != decisions).sum()
        assert found["mcc"] == pytest.approx(matthews_corrcoef(rows["label"], decisions))
        assert found["mcc_low"] <= found["mcc"] <= found["mcc_high"]
    assert [entry["level"] for entry in result["by_level"]] == [0, 1, 2, 3]
    assert frame.groupby("id")["logit_roadwork"].nunique().min() == 4  # of each photo four pictures
    assert result["mcc"] == pytest.approx(matthews_corrcoef(frame["label"], frame["challenge_score"] > 0.5))
    assert result["groups"] == plain["group"].nunique()
    assert result["reward"]["windows"] == 2000


def test_native_photos_are_the_ordinary_predictions(judged):
    run, _, _ = judged
    frame, plain = read_predictions(run / f"predictions_{NATIVE}.parquet"), plain_rows(run)
    assert frame["id"].tolist() == plain["id"].tolist()
    assert np.allclose(frame[["logit_none", "logit_roadwork"]], plain[["logit_none", "logit_roadwork"]], atol=1e-5)
    result = results_of(run)[f"val_test_{NATIVE}"]
    assert "by_level" not in result
    assert 0 <= result["reward"]["low"] <= result["reward"]["mean"] <= 1


def test_existing_files_stay_and_openings_are_counted(judged):
    run, _, before = judged
    results = results_of(run)
    added = {f"val_test_{profile}" for profile in (CHALLENGES, NATIVE)}
    assert {key: value for key, value in results.items() if key not in added} == results_of(before)
    assert added < set(results)
    assert (run / "predictions.parquet").read_bytes() == (before / "predictions.parquet").read_bytes()
    opened = Run(before).read_manifest()["val_test_openings"]
    assert [results[f"val_test_{profile}"]["openings"] - opened for profile in (CHALLENGES, NATIVE)] == [1, 2]
    manifest = Run(run).read_manifest()
    assert manifest["val_test_openings"] == opened + 2
    for name in ("results.json", f"predictions_{CHALLENGES}.parquet", f"predictions_{NATIVE}.parquet"):
        assert manifest["sha256"][name] == sha256_of(run / name)


@pytest.mark.parametrize("profile", [CHALLENGES, NATIVE])
def test_command_prints_a_readable_summary(judged, profile):
    run, said, _ = judged
    result = results_of(run)[f"val_test_{profile}"]
    for part in (f"val_test as {profile}", f"Reward {result['reward']['mean']:.3f} on average", "95 % interval",
                 f"was opened {result['openings']} time(s)", f"predictions_{profile}.parquet"):  # fmt: skip
        assert part in said[profile]
    for part in ("no model can be right", "3 distorted more"):
        assert (part in said[profile]) == (profile == CHALLENGES)


def test_challenges_are_repeatable_and_match_the_folded_export(judged, tiny_run, tmp_path):
    run = copy_run(tiny_run, tmp_path / "run", privacy__coarsen_gps=1)
    change_calibration(run, temperature=1.7, threshold=0.6)
    result = evaluate_profile(run, CHALLENGES)
    assert (result["temperature"], result["threshold"]) == (1.7, 0.6)
    frame, before = challenges_of(run), challenges_of(judged[0])
    assert frame["logit_roadwork"].equals(before["logit_roadwork"])
    difference = frame["logit_roadwork"] - frame["logit_none"]
    assert np.array_equal(frame["challenge_score"] > 0.5, expit(difference / 1.7) > 0.6)
    # Positions are as coarse as the run asks for.
    known = frame["latitude"].dropna()
    assert np.allclose(known, known.round(1))
    assert not np.allclose(before["latitude"].dropna(), before["latitude"].dropna().round(1))


def test_without_calibration_the_answer_is_the_probability(tiny_run, tmp_path):
    run = copy_run(tiny_run, tmp_path / "run")
    (run / "calibration.json").unlink()
    shown = CliRunner().invoke(app, ["evaluate", str(run), "--profile", NATIVE])
    assert "The run is not calibrated" in shown.stdout
    frame = read_predictions(run / f"predictions_{NATIVE}.parquet")
    assert np.allclose(frame["challenge_score"], frame["probability"])


def test_an_answer_of_exactly_a_half_is_none(judged):
    """The validator rounds, and half rounds to even."""
    settings = to_settings(load_yaml(judged[0] / "config.yaml"))
    result = score_profile(challenges_of(judged[0]).assign(challenge_score=0.5), settings)
    assert result["confusion"]["fp"] == result["confusion"]["tp"] == 0
    assert result["reward"]["mean"] < 0.05


def test_one_label_alone_has_no_reward(judged):
    settings = to_settings(load_yaml(judged[0] / "config.yaml"))
    frame = challenges_of(judged[0])
    result = score_profile(frame[frame["label"] == 1], settings)
    assert result["reward"] is None
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("allowed", [0.0, 0.5])
def test_unreadable_photo_stops_or_is_excluded_at_every_level(judged, tiny_run, tmp_path, monkeypatch, allowed):
    damaged, real = plain_rows(tiny_run)["id"].iloc[0], predict.make_challenges

    def make(data, levels, row_id, seed):
        if row_id == damaged:
            raise UnreadableImageError("cut off")
        return real(data, levels, row_id, seed)

    monkeypatch.setattr(predict, "make_challenges", make)
    run = copy_run(tiny_run, tmp_path / "run", data__max_unreadable=allowed, evaluation__seed=7)
    if not allowed:
        with pytest.raises(DataError, match="cut off"):
            evaluate_profile(run, CHALLENGES)
        assert results_of(run) == results_of(tiny_run)
        return
    assert evaluate_profile(run, CHALLENGES)["unreadable"] == 1
    frame, before = challenges_of(run), challenges_of(judged[0])
    assert set(before["id"]) - set(frame["id"]) == {damaged}
    assert frame.groupby("id").size().eq(4).all()
    # Another seed draws other pictures, but for level 0, which draws nothing.
    both = frame.merge(before, on=["id", "challenge_level"])
    is_same = (both["logit_roadwork_x"] - both["logit_roadwork_y"]).abs() < 1e-5
    assert is_same.equals(both["challenge_level"] == 0)


def test_unknown_profile_is_refused_before_reading_data(judged):
    run, _, _ = judged
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shown = CliRunner().invoke(app, ["evaluate", str(run), "--profile", "streetvision"])
    assert isinstance(shown.exception, ConfigError)
    assert f"--profile is 'streetvision'; allowed: {CHALLENGES}, {NATIVE}." in str(shown.exception)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_calibration_of_other_predictions_is_refused(tiny_run, tmp_path):
    run = copy_run(tiny_run, tmp_path / "run")
    change_calibration(run, sha256_of_rows="0")
    with pytest.raises(DataError, match="other predictions"):
        evaluate_profile(run, CHALLENGES)


def test_table_fits_80_columns_and_states_its_limits():
    row = {"n": 123_456, "errors": 12_345, "mcc": -0.1234, "mcc_low": -0.1234, "mcc_high": -0.1234}
    result = row | {
        "profile": CHALLENGES, "groups": 5, "temperature": 1.0, "threshold": 0.5, "leaks": ["a leak"], "reward": None,
        "confusion": {"fp": 1, "fn": 2}, "by_level": [row | {"level": level} for level in range(4)],
    }  # fmt: skip
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(format_profile(result))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("-0.1234 to -0.1234") == 5
    for part in ("one class only", "a leak"):
        assert part in text
