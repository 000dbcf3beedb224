"""`roadwork experiment ablate` from the command line, with a tiny network on the demo scenes."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.config import CHECKOUT, TINY_MODEL
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import matthews_corrcoef

from roadwork.cli import main
from roadwork.config import load_config, to_settings
from roadwork.data.dataset import ImageStore
from roadwork.data.source import read_dataset
from roadwork.experiments.ablation_fit import FACTS

CONDITIONS = ("plain", "ema")
QUICK = (*TINY_MODEL, "experiment=tiny", "evaluation.bootstrap_draws=100", "training.checkpoint_minutes=0")
DESIGN = ("--conditions", "ema", "--seeds", "2", "--folds", "2", "--steps", "8")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["experiment", "ablate", "--config", str(CHECKOUT / "configs/config.yaml"), *arguments])
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers  # the command's own handlers write to a stream that capsys has closed


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo_root):
    """An ablation of two conditions on two folds, and the rows whose images its fits read."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("ablate") / "outputs"
    seen, get = set(), ImageStore.get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageStore, "get", lambda store, row: seen.add(row) or get(store, row))
        patch.chdir(output.parent)
        own = ("data.dataloader.num_workers=0", f"data.root={demo_root}", f"output_dir={output}")
        assert run(*DESIGN, *own, *QUICK) == 0
    return output, seen


@pytest.fixture
def folder(finished):
    return finished[0] / "tiny/ablate/latest"


@pytest.fixture
def copied(finished, tmp_path, monkeypatch):
    """A copy of the finished ablation that tests may change."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished[0], tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs/tiny/ablate/latest"


def again(demo_root, *arguments: str) -> int:
    own = ("data.dataloader.num_workers=0", f"data.root={demo_root}", "output_dir=outputs")
    given = {argument.partition("=")[0] for argument in arguments}
    design = DESIGN if "--folds" not in given else (*DESIGN[:4], *DESIGN[6:])
    return run(*design, *own, *(a for a in QUICK if a.partition("=")[0] not in given), *arguments)


def read_fit(folder, condition, seed):
    fit = folder / f"fits/{condition}/seed_{seed}_fold_{seed}"
    return pd.read_parquet(fit / "predictions.parquet"), json.loads((fit / "fit.json").read_text())


def splits_of(folder, fold):
    return json.loads((folder / f"fold_{fold}/splits.json").read_text())["splits"]


def test_all_conditions_are_evaluated_on_the_same_unseen_rows(folder):
    for seed in (0, 1):
        splits = splits_of(folder, seed)
        for name in CONDITIONS:
            frame, _ = read_fit(folder, name, seed)
            assert sorted(frame["id"]) == sorted(splits["val_calib"])
            assert not set(frame["id"]) & {*splits["train"], *splits["val_select"], *splits["val_test"]}
            own = OmegaConf.load(next((folder / f"fits/{name}/seed_{seed}_fold_{seed}").glob("2*/config.yaml")))
            assert own.training.seed == own.data.gps_sampling.random_seed == seed


def test_no_image_of_val_test_is_read(finished, folder, demo_root):
    cfg = load_config(CHECKOUT / "configs/config.yaml", [f"data.root={demo_root}"])
    ids = read_dataset(to_settings(cfg).data)[0].ids[sorted(finished[1])]
    splits = splits_of(folder, 0)
    assert not set(ids) & set(splits["val_test"])
    assert set(ids) == {*splits["train"], *splits["val_select"], *splits["val_calib"]}


def test_conditions_take_the_requested_number_of_steps(folder):
    for seed in (0, 1):
        steps = [read_fit(folder, name, seed)[1]["steps"] for name in CONDITIONS]
        an_epoch = math.ceil(len(splits_of(folder, seed)["train"]) / 16)
        assert steps == [an_epoch * max(1, round(8 / an_epoch))] * len(CONDITIONS)


def test_facts_are_kept_and_checkpoints_are_not(folder):
    for name in CONDITIONS:
        _, facts = read_fit(folder, name, 0)
        assert tuple(facts) == FACTS
        assert 0 < facts["seconds"] < facts["wall_seconds"]
        assert facts["checkpoint_mb"] > 0
    # The averaged weights and the trained weights.
    assert read_fit(folder, "ema", 0)[1]["checkpoint_mb"] > read_fit(folder, "plain", 0)[1]["checkpoint_mb"]
    assert not list(folder.glob("**/*.ckpt"))


def test_the_report_agrees_with_the_predictions(folder):
    report = json.loads((folder / "ablation.json").read_text())
    assert list(report["arms"]) == list(CONDITIONS)
    for name in CONDITIONS:
        frames = [read_fit(folder, name, seed)[0] for seed in (0, 1)]
        by_fit = [matthews_corrcoef(frame["label"], frame["probability"] >= 0.5) for frame in frames]
        assert report["arms"][name]["mcc"]["value"] == pytest.approx(np.mean(by_fit))
    assert report["comparisons"] == 1
    text = (folder / "ablation.md").read_text()
    assert f"{report['arms']['ema']['mcc']['value']:.3f}" in text
    assert "`training.use_ema=True`" in text
    assert report["command"] in text
    with Image.open(folder / "ablation.png") as picture:
        assert picture.width > 800
    manifest = json.loads((folder / "manifest.json").read_text())
    assert "val_test_openings" not in manifest
    assert "ablation.json" in manifest["sha256"]


def test_resume_trains_only_what_is_not_finished(copied, demo_root, capsys):
    before = json.loads((copied / "ablation.json").read_text())
    kept = {file: file.stat().st_mtime_ns for file in copied.glob("fits/*/seed_1*/*") if file.is_file()}
    (copied / "fits/plain/seed_0_fold_0/fit.json").unlink()
    (copied / "ablation.json").unlink()
    assert again(demo_root, "--resume", "latest") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 of 4" in shown
    assert "4 of 4: plain, seed 0, fold 1" in shown
    assert "ema, seed" not in shown
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    after = json.loads((copied / "ablation.json").read_text())
    assert after["arms"]["plain"]["mcc"]["by_fit"] == pytest.approx(before["arms"]["plain"]["mcc"]["by_fit"])


@pytest.mark.parametrize(
    ("changed", "code", "key"),
    [
        (["--resume", "latest", "training.lr=0.5"], 2, "training.lr was 0.001, now 0.5"),
        (["--resume", "latest", "--folds", "3"], 2, "--folds was 2, now 3"),
        (["--resume", "nowhere"], 1, "nowhere"),
        (["--resume", "outputs"], 1, "ablate.yaml"),
        (["data.dataloader.batch_size=auto"], 2, "batch_size"),
        (["training.devices=2"], 2, "device"),
    ],
)
def test_invalid_requests_give_one_clear_error(copied, demo_root, capsys, changed, code, key):
    assert again(demo_root, *changed) == code
    captured = capsys.readouterr()
    assert key in " ".join((captured.err + captured.out).split())


def test_a_damaged_fit_is_named(copied, demo_root, capsys):
    (copied / "fits/ema/seed_1_fold_1/fit.json").write_text("{}")
    assert again(demo_root, "--resume", "latest") == 1
    assert "ema/seed_1_fold_1/fit.json" in "".join(capsys.readouterr().err.split("\n"))


@pytest.mark.parametrize("option", ["--conditions", "--arms"])
def test_other_conditions_are_not_resumed(copied, demo_root, capsys, option):
    assert again(demo_root, "--resume", "latest", option, "gps") == 2
    assert "arms.ema" in "".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_frozen_backbone_trains_heads_on_features(demo_root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ("--seeds", "1", "--folds", "2", f"data.root={demo_root}", "training.freeze_backbone=true")
    arguments += ("data.dataloader.num_workers=0",)
    assert run(*arguments, *QUICK, "training.epochs=2") == 0
    shown, logged = capsys.readouterr()
    assert "Conditions: plain, gps, ema, all. 4 fits" in shown
    assert "latest_2025, heavy_kornia" in " ".join(logged.split())
    folder = tmp_path / "outputs/tiny/ablate/latest"
    assert {read_fit(folder, name, 0)[1]["trainable"] for name in ("plain", "gps", "ema", "all")} == {34.0}


@pytest.mark.slow
def test_adapters_on_a_tiny_vit(demo_root, tmp_path, monkeypatch):
    from fixtures.detectors import TINY_NETWORKS

    monkeypatch.chdir(tmp_path)
    network = ("model=vit_base", "model.name=vit", "model.pretrained=false", f"model.config={TINY_NETWORKS['vit']}")
    # The schedule of AdaLoRA needs 20 steps.
    design = ("--conditions", "adapters", "--seeds", "1", "--folds", "2", "--steps", "20")
    quick = (*QUICK[1:], "data.dataloader.num_workers=0", "data.dataloader.batch_size=4")
    assert run(*design, f"data.root={demo_root}", *network, *quick) == 0
    report = json.loads((tmp_path / "outputs/tiny/ablate/latest/ablation.json").read_text())["arms"]
    assert list(report) == ["full", "lora", "dora", "adalora", "vera", "ia3", "probe"]
    assert len({figures["steps"] for figures in report.values()}) == 1
    assert report["probe"]["trainable"] < report["ia3"]["trainable"] < report["lora"]["trainable"]
