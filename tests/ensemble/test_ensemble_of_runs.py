"""An ensemble of two real runs: its folder, rejected runs, and its export."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from roadwork.calibration.calibrate import CalibrationOptions
from roadwork.calibration.run import calibrate_run
from roadwork.cli.main import main
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of
from roadwork.detector.format import ExportFacts
from roadwork.evaluation import ensemble as members
from roadwork.evaluation.ensemble import average_predictions, create_ensemble
from roadwork.evaluation.evaluate import evaluate_run
from roadwork.evaluation.streetvision.evaluate import evaluate_profile
from roadwork.export.consumer import check_files
from roadwork.export.export import export_members, export_run
from roadwork.export.verify import VerifyOptions, verify_export
from roadwork.models.processor import ImageStatistics
from roadwork.runs.ensemble_record import read_members
from roadwork.runs.run import Run


@pytest.fixture(scope="module")
def runs(tiny_run, tmp_path_factory):
    """Two evaluated runs with different weights. Shared: a test that changes one works on a copy."""
    first, second = (tmp_path_factory.mktemp("runs") / name for name in ("first", "second"))
    shutil.copytree(tiny_run, first)
    shutil.copytree(tiny_run, second)
    path = second / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for weight in checkpoint["state_dict"].values():
        if weight.is_floating_point():
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            weight.add_(0.1 * weight.abs().mean() * noise)
    torch.save(checkpoint, path)
    evaluate_run(second)
    calibrate_run(second, CalibrationOptions())
    return first, second


@pytest.fixture(scope="module")
def ensemble(runs):
    """The calibrated ensemble of both runs."""
    folder = create_ensemble(runs, "both").folder
    calibrate_run(folder, CalibrationOptions(prior=0.5))
    edit_json(folder / "calibration.json", lambda content: content.update(temperature=0.7, threshold=0.4))
    return folder


@pytest.fixture
def pair(runs, tmp_path):
    """Copies of both runs."""
    copies = tmp_path / "a", tmp_path / "b"
    for run, copy in zip(runs, copies, strict=True):
        shutil.copytree(run, copy)
    return copies


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_logits_are_the_mean_of_the_members(runs, ensemble):
    frames = [pd.read_parquet(run / "predictions.parquet") for run in runs]
    names = ["logit_none", "logit_roadwork"]
    by_hand = pd.concat(frames).groupby("id")[names].mean()
    found = pd.read_parquet(ensemble / "predictions.parquet").set_index("id")
    assert set(found.index) == set(frames[0]["id"])
    assert np.allclose(found[names], by_hand.loc[found.index], atol=1e-12)
    assert not np.allclose(found[names], frames[0].set_index("id").loc[found.index, names], atol=1e-4)
    difference = (found["logit_roadwork"] - found["logit_none"]).to_numpy()
    assert np.allclose(found["probability"], 1 / (1 + np.exp(-difference)), atol=1e-12)


def test_ensemble_ignores_row_order(runs):
    first, second = (pd.read_parquet(run / "predictions.parquet") for run in runs)
    shuffled = second.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(average_predictions([first, shuffled]), average_predictions([first, second]))


def test_members_and_openings_are_recorded(runs, ensemble):
    record = json.loads((ensemble / "ensemble.json").read_text())
    checkpoints = [sha256_of(run / "checkpoints" / "best.ckpt") for run in runs]
    assert [row["checkpoint_sha256"] for row in record["members"]] == checkpoints
    assert [(ensemble / row["run"]).resolve() for row in record["members"]] == [run.resolve() for run in runs]
    manifest = Run(ensemble).read_manifest()
    of_members = [Run(run).read_manifest()["val_test_openings"] for run in runs]
    assert manifest["val_test_openings_of_members"] == of_members
    result = json.loads((ensemble / "results.json").read_text())["val_test"]
    assert result["openings"] == sum(of_members) + 1
    assert manifest["val_test_openings"] == sum(of_members) + 2  # calibration opened it once more
    assert {"mcc", "mcc_low", "mcc_high", "n", "groups", "target", "by_distance"} <= set(result)


def test_repeated_run_is_rejected(pair):
    with pytest.raises(ConfigError, match="named twice"):
        create_ensemble([pair[0], pair[1], pair[0]])
    with pytest.raises(ConfigError, match="two or more"):
        create_ensemble(pair[:1])
    copy = pair[0].parent / "copy"
    shutil.copytree(pair[0], copy)
    with pytest.raises(DataError, match="same checkpoint"):
        create_ensemble([*pair, copy])


def test_removed_or_replaced_member_is_rejected(ensemble, tmp_path):
    copy = ensemble.parent / f"copy-{tmp_path.name}"
    shutil.copytree(ensemble, copy)
    assert len(read_members(copy)) == 2
    edit_json(copy / "ensemble.json", lambda content: content["members"].reverse())
    with pytest.raises(DataError, match=r"results\.json.*2 other checkpoints"):
        export_run(copy, tmp_path / "out", format="hf")
    edit_json(copy / "ensemble.json", lambda content: content["members"].append(content["members"][0]))
    with pytest.raises(DataError, match="different runs"):
        read_members(copy)
    edit_json(copy / "ensemble.json", lambda content: content["members"].pop())
    edit_json(copy / "ensemble.json", lambda content: content["members"].pop())
    with pytest.raises(DataError, match="different runs"):
        read_members(copy)


def test_member_trained_after_evaluation_is_rejected(pair, tmp_path):
    folder = create_ensemble(pair).folder
    with (pair[1] / "checkpoints" / "best.ckpt").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match=r"best\.ckpt.*SHA-256"):
        export_run(folder, tmp_path / "out", format="hf")
    with pytest.raises(DataError, match=r"`roadwork evaluate .*b`"):
        create_ensemble(pair)


def other_splits(run):
    def swap(content):
        splits = content["splits"]
        splits["train"][0], splits["val_test"][0] = splits["val_test"][0], splits["train"][0]

    edit_json(run / "splits.json", swap)


def other_data(run):
    edit_json(run / "manifest.json", lambda content: content.update(data_fingerprint="sha256:other"))


def set_in_config(run, key, value):
    cfg = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(cfg, key, value, merge=False)
    OmegaConf.save(cfg, run / "config.yaml")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_splits, r"train\b.*\b2 rows"),
        (other_data, "fingerprint.*sha256:other"),
        (lambda run: set_in_config(run, "data.img_size", 64), r"data\.img_size.*64.*32"),
        (lambda run: set_in_config(run, "data.class_names", {"No": 0, "Yes": 1}), "data.class_names"),
        (lambda run: (run / "results.json").unlink(), "roadwork evaluate"),
        (lambda run: (run / "predictions.parquet").unlink(), "roadwork evaluate"),
        (lambda run: (run / "checkpoints" / "best.ckpt").unlink(), "validation"),
        (lambda run: (run / "ensemble.json").write_text("{}"), "ensemble"),
    ],
)
def test_incompatible_runs_are_rejected(change, named, pair):
    change(pair[1])
    with pytest.raises(DataError, match=named):
        create_ensemble(pair)


def test_other_statistics_are_rejected(pair, monkeypatch):
    found = iter([ImageStatistics((0.5,) * 3, (0.5,) * 3), ImageStatistics((0.4,) * 3, (0.5,) * 3)])
    monkeypatch.setattr(members, "image_statistics", lambda model: next(found))
    with pytest.raises(DataError, match="mean and standard deviation"):
        create_ensemble(pair)


def test_missing_predictions_are_rejected(pair):
    path = pair[1] / "predictions.parquet"
    frame = pd.read_parquet(path)
    frame[frame["split"] != "val_calib"].to_parquet(path)
    with pytest.raises(DataError, match=r"val_calib.*`roadwork evaluate"):
        create_ensemble(pair)
    frame.drop(index=frame.index[frame["split"] == "val_calib"][0]).to_parquet(path)
    with pytest.raises(DataError, match=r"val_calib.*\b1\b"):
        create_ensemble(pair)


def test_export_reproduces_the_ensemble(runs, ensemble, tmp_path):
    out = tmp_path / "model"
    summary = export_run(ensemble, out, format="hf")
    assert summary.parities[0].what == "2 networks in one"
    facts = ExportFacts.read(out)
    assert (facts.temperature, facts.threshold) == (0.7, 0.4)
    found = verify_export(out, VerifyOptions(run=ensemble, run_rows=24))
    (against_run,) = [comparison for comparison in found.comparisons if "run's predictions" in comparison.what]
    assert against_run.limit == 1e-4
    assert found.passed, found.as_dict()
    card = (out / "README.md").read_text()
    assert "2 networks" in card
    assert "library_name: roadwork" in card
    # The ensemble's export does not match a member's run.
    with pytest.raises(DataError, match="Export again"):
        verify_export(out, VerifyOptions(run=runs[0], run_rows=4))
    check = next(check for check in check_files(out) if check.name == "model type")
    assert check.status == "failed"
    assert "--members" in check.fix


def test_calibration_folded_into_one_member_is_rejected(ensemble, tmp_path, monkeypatch):
    from roadwork.core.errors import WiringError
    from roadwork.export import export

    right = export.fold_calibration
    monkeypatch.setattr(export, "fold_calibration", lambda network, *facts: right(network.members[0], *facts))
    with pytest.raises(WiringError, match=r"calibration.*logits"):
        export_run(ensemble, tmp_path / "out", format="hf")


@pytest.mark.slow
def test_ensemble_exports_one_onnx_graph(ensemble, tmp_path):
    export_run(ensemble, tmp_path / "model", format="onnx")
    assert verify_export(tmp_path / "model", VerifyOptions(run=ensemble, run_rows=24)).passed


@pytest.mark.slow
def test_ensemble_is_listed_with_its_networks(runs, ensemble, tmp_path):
    exported = export_members(ensemble, tmp_path / "models", format="hf")
    for summary, run in zip(exported, runs, strict=True):
        assert summary.model_type == "resnet"
        assert verify_export(summary.folder, VerifyOptions(run=run, run_rows=12)).passed
    with pytest.raises(ConfigError, match="--members"):
        export_members(runs[0], tmp_path / "models", format="hf")


def test_ensemble_runs_a_profile_without_new_evaluation(pair):
    folder = create_ensemble(pair).folder
    with pytest.raises(DataError, match=r"roadwork ensemble RUN RUN"):
        evaluate_run(folder)
    result = evaluate_profile(folder, "streetvision-2026-05")
    plain = json.loads((folder / "results.json").read_text())["val_test"]
    assert result["confusion"] == plain["confusion"]
    assert result["openings"] == plain["openings"] + 1


def test_ensemble_command(pair, capsys):
    with pytest.raises(SystemExit) as end:
        main(["ensemble", *map(str, pair), "--out-experiment", "both"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "mean of the logits" in printed
    assert "/both/" in printed
