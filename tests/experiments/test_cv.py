"""Cross-validation by its command, on the demo scenes with a tiny network."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.config import CHECKOUT, TINY_MODEL
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import matthews_corrcoef

from roadwork.cli import main
from roadwork.config import load_config
from roadwork.data.datamodule import NATIXDataModule
from roadwork.evaluation.evaluate import load_best_model, predict_splits
from roadwork.experiments.cross_validation import _measure_fold, plan_cross_validation, train_fold
from roadwork.models.build import build_model

ARGUMENTS = (*TINY_MODEL, "training.epochs=1", "experiment=tiny", "evaluation.bootstrap_draws=100")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["experiment", "cv", "--config", str(CHECKOUT / "configs/config.yaml"), *arguments])
    return ended.value.code or 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo_root):
    """A cross-validation of three folds, run once, and what the command printed."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("cv") / "outputs"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(output.parent)
        assert run("--folds", "3", f"data.root={demo_root}", f"output_dir={output}", *ARGUMENTS) == 0
    return output


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of the finished cross-validation that tests may change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs/tiny/cv/latest"


def labels_of(root):
    with (root / "labels.csv").open() as file:
        return {row["filename"]: int(row["label"] == "Roadwork") for row in csv.DictReader(file)}


def test_each_row_outside_val_test_is_predicted_once(finished, demo_root):
    folder = finished / "tiny/cv/latest"
    pooled = pd.read_parquet(folder / "oof_predictions.parquet")
    written = [json.loads((folder / f"fold_{k}/splits.json").read_text()) for k in range(3)]
    outside = {*written[0]["splits"]["val_test"], *written[0]["set_aside"]}
    assert sorted(pooled["id"]) == sorted(set(labels_of(demo_root)) - outside)
    assert set(pooled["split"]) == {"fold_0", "fold_1", "fold_2"}
    for fold, splits in enumerate(written):
        held_out = pooled[pooled["split"] == f"fold_{fold}"]
        assert set(held_out["id"]) == set(splits["splits"]["val_calib"])
        groups = pooled.set_index("id")["group"]
        for name in ("train", "val_select"):
            assert not set(groups[splits["splits"][name]]) & set(held_out["group"])


def test_metrics_are_those_of_the_pooled_predictions(finished):
    folder = finished / "tiny/cv/latest"
    pooled = pd.read_parquet(folder / "oof_predictions.parquet")
    result = json.loads((folder / "results.json").read_text())["cross_validation"]
    decisions = pooled["probability"] >= 0.5
    assert result["mcc"] == pytest.approx(matthews_corrcoef(pooled["label"], decisions))
    assert result["n"] == len(pooled)
    assert result["groups"] == pooled["group"].nunique()
    for row in result["folds"]:
        own = pooled[pooled["split"] == f"fold_{row['fold']}"]
        assert row["mcc"] == pytest.approx(matthews_corrcoef(own["label"], own["probability"] >= 0.5))
        assert row["errors"] == (own["label"] != (own["probability"] >= 0.5)).sum()
        assert row["n"] == len(own)


def test_fold_is_a_run_and_its_best_checkpoint_predicts(finished):
    fold = finished / "tiny/cv/latest/fold_1"
    run_folder = (fold / "latest").resolve()
    for name in ("config.yaml", "metrics.jsonl", "manifest.json", "checkpoints/best.ckpt"):
        assert (run_folder / name).is_file(), name
    assert "val_test_openings" not in json.loads((run_folder / "manifest.json").read_text())
    assert (
        json.loads((run_folder / "splits.json").read_text())["splits"]
        == (json.loads((fold / "splits.json").read_text())["splits"])
    )
    datamodule = NATIXDataModule(OmegaConf.load(run_folder / "config.yaml"))
    datamodule.setup("predict")
    again = predict_splits(datamodule, load_best_model(run_folder, datamodule.settings), ["val_calib"])
    before = pd.read_parquet(fold / "predictions.parquet")
    assert again["id"].tolist() == before["id"].tolist()
    np.testing.assert_allclose(again["probability"], before["probability"], atol=1e-6)


def test_the_audit_is_written_beside_the_results(finished):
    folder = finished / "tiny/cv/latest"
    pooled = pd.read_parquet(folder / "oof_predictions.parquet").set_index("id")
    listed = pd.read_csv(folder / "label_audit.csv", dtype=str, keep_default_na=False)
    assert set(listed["id"]) <= set(pooled.index)
    contradicted = (pooled["probability"] >= 0.5) != (pooled["label"] == 1)
    assert contradicted[listed["id"]].all()
    assert (folder / "label_audit.html").read_text().count("<article") == len(listed)


def test_resume_trains_only_what_is_not_finished(copied, demo_root, capsys):
    before = pd.read_parquet(copied / "oof_predictions.parquet")
    kept = {file: file.stat().st_mtime_ns for file in copied.glob("fold_[02]/**/*") if file.is_file()}
    (copied / "fold_1/predictions.parquet").unlink()
    (copied / "oof_predictions.parquet").unlink()
    arguments = ("--folds", "3", "--no-audit", "--resume", "latest", f"data.root={demo_root}")
    assert run(*arguments, "tracking.loggers={csv: {}}", f"output_dir={copied.parents[2]}", *ARGUMENTS) == 0
    shown = capsys.readouterr().out
    assert "2 of 3 fits" in shown
    assert "Fold 2:" in shown
    assert "Fold 1:" not in shown
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    again = pd.read_parquet(copied / "oof_predictions.parquet")
    assert again["id"].tolist() == before["id"].tolist()
    np.testing.assert_allclose(again["probability"], before["probability"], atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "code", "key"),
    [
        (["--folds", "3", "--resume", "latest", "training.lr=0.5"], 2, "training.lr was 0.001, now 0.5"),
        (["--folds", "4", "--resume", "latest"], 2, "folds was 3, now 4"),
        (["--folds", "3", "--by", "region", "--resume", "latest"], 2, "by was None, now 'region'"),
        (["--folds", "3", "--resume", "nowhere"], 1, "nowhere"),
        (["--folds", "3", "--resume", "outputs"], 1, "cv.yaml"),
        (["--folds", "1"], 2, "--folds"),
        (["--folds", "90"], 1, "--folds"),
        (["--by", "town"], 2, "town"),
    ],
)
def test_invalid_requests_give_one_clear_error(copied, demo_root, capsys, changed, code, key):
    assert run(*changed, "--no-audit", f"data.root={demo_root}", "output_dir=outputs", *(
        argument for argument in ARGUMENTS if argument.partition("=")[0] not in " ".join(changed)
    )) == code  # fmt: skip
    captured = capsys.readouterr()
    assert key in " ".join((captured.err + captured.out).split())


def test_a_fold_with_other_rows_is_not_resumed(copied, demo_root, capsys):
    file = copied / "fold_0/splits.json"
    content = json.loads(file.read_text())
    content["splits"]["train"].append(content["splits"]["val_calib"].pop())
    file.write_text(json.dumps(content))
    arguments = ("--folds", "3", "--resume", str(copied), f"data.root={demo_root}", "output_dir=outputs")
    assert run(*arguments, *ARGUMENTS) == 1
    assert "fold_0/splits.json" in "".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": [1]}'])
def test_a_fold_with_damaged_splits_is_named(copied, demo_root, capsys, content):
    (copied / "fold_1/splits.json").write_text(content)
    arguments = ("--folds", "3", "--resume", "latest", f"data.root={demo_root}", "output_dir=outputs")
    assert run(*arguments, *ARGUMENTS) == 1
    assert "fold_1/splits.json" in "".join(capsys.readouterr().err.splitlines())


def test_a_fold_with_damaged_predictions_is_named(copied, demo_root, capsys):
    (copied / "fold_1/predictions.parquet").write_text("?")
    arguments = ("--folds", "3", "--resume", "latest", f"data.root={demo_root}", "output_dir=outputs")
    assert run(*arguments, *ARGUMENTS) == 1
    assert "fold_1/predictions.parquet" in "".join(capsys.readouterr().err.split())


def test_corrected_labels_change_the_data(copied, demo_root, tmp_path, capsys):
    audit = pd.read_csv(copied / "label_audit.csv", dtype=str, keep_default_na=False)
    audit.loc[0, "corrected_label"] = "drop"
    audit.to_csv(tmp_path / "filled_in.csv", index=False)
    arguments = ("--folds", "3", "--resume", "latest", f"data.root={demo_root}", "output_dir=outputs")
    assert run(*arguments, "data.label_corrections=filled_in.csv", *ARGUMENTS) == 1
    assert "data.label_corrections" in " ".join(capsys.readouterr().err.split())


def test_val_test_is_never_read(demo_root, tmp_path):
    """With flipped labels and other images in val_test, every fold predicts the same."""
    labels = labels_of(demo_root)
    sequences = sorted({name.rpartition("-")[0] for name in labels})
    rows = {name: [] for name in ("train", "val_select", "val_calib", "val_test")}
    for name in labels:
        rows[list(rows)[sequences.index(name.rpartition("-")[0]) % 4]].append(name)
    (tmp_path / "splits.json").write_text(json.dumps(rows))
    poisoned = tmp_path / "poisoned"
    shutil.copytree(demo_root, poisoned)
    noise = np.random.default_rng(0)
    for name in rows["val_test"]:
        Image.fromarray(noise.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(poisoned / name)
    with (demo_root / "labels.csv").open() as file:
        lines = list(csv.DictReader(file))
    with (poisoned / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys())
        writer.writeheader()
        for line in lines:
            turned = {"None": "Roadwork", "Roadwork": "None"}[line["label"]]
            writer.writerow(line | {"label": turned} if line["filename"] in rows["val_test"] else line)
    frames = []
    for root in (demo_root, poisoned):
        overrides = [
            *ARGUMENTS, f"data.root={root}", f"output_dir={tmp_path / root.name}",
            f"data.splits_file={tmp_path / 'splits.json'}",
            "data.gps_sampling.target=val_test", "data.splitting.near_duplicates=false",
        ]  # fmt: skip
        plan = plan_cross_validation(load_config(CHECKOUT / "configs/config.yaml", overrides), 2)
        fold = plan.fits[0]
        frames.append(train_fold(NATIXDataModule(fold.cfg), fold))
    assert not set(frames[0]["id"]) & set(rows["val_test"])
    pd.testing.assert_frame_equal(*frames)


def test_by_region_holds_out_whole_cities(demo_root, tiny_config):
    cfg = tiny_config("data.splitting.region_column=city")
    plan = plan_cross_validation(cfg, 3, by="region")
    table = plan.dataset.table
    city = dict(zip(table.ids, table.slices["city"], strict=True))
    for fold in plan.fits:
        held_out = {city[row_id] for row_id in fold.splits.ids["val_calib"]}
        seen = {city[row_id] for name in ("train", "val_select") for row_id in fold.splits.ids[name]}
        assert held_out
        assert not held_out & seen
    ids = plan.splits[1].ids["val_calib"]
    frame = pd.DataFrame({"id": ids, "group": "g", "label": np.arange(len(ids)) % 2, "probability": 1.0})
    cities = _measure_fold(plan, 1, frame)["regions"]
    assert set(cities) == {city[row_id] for row_id in ids}


def test_coarse_predictions_hide_positions_in_all_columns(demo_root, tiny_config, tmp_path):
    root = tmp_path / "streets"
    root.mkdir()
    (root / "images").symlink_to(demo_root / "images")
    labels = pd.read_csv(demo_root / "labels.csv", keep_default_na=False)
    labels.assign(place="at " + labels["latitude"].astype(str)).to_csv(root / "labels.csv", index=False)
    whole = NATIXDataModule(tiny_config(f"data.root={root}"))
    coarse = NATIXDataModule(tiny_config(f"data.root={root}", "privacy.coarsen_gps=1"))
    frames = []
    for datamodule in (whole, coarse):
        datamodule.setup()
        cells = np.array([f"{name}/871f1d489ffffff" for name in datamodule.groups.names], dtype=object)
        datamodule.groups = replace(datamodule.groups, names=cells)
        model = build_model(datamodule.settings.model, datamodule.settings.data.img_size).eval()
        frames.append(predict_splits(datamodule, model, ["val_calib"]))
    assert set(frames[0]) - set(frames[1]) == {"place"}
    assert {"city", "weather"} <= set(frames[1])
    assert frames[0]["group"].str.endswith("ffffff").all()
    assert not frames[1]["group"].str.contains("ffffff").any()
    assert (pd.factorize(frames[0]["group"])[0] == pd.factorize(frames[1]["group"])[0]).all()
