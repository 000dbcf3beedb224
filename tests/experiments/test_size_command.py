"""`roadwork experiment size` from the command line, with a tiny network on the demo scenes."""

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
from sklearn.metrics import matthews_corrcoef

from roadwork.cli import main
from roadwork.config import load_config, to_settings
from roadwork.data.dataset import ImageStore
from roadwork.data.open import open_dataset
from roadwork.experiments.size_plan import SizeDesign, plan_sizes

SEEDS = (0, 1)
DESIGN = ("--sizes", "5", "--ratio", "1.5", "--seeds", "2", "--folds", "3", "--min-steps", "8")
QUICK = (*TINY_MODEL, "experiment=tiny", "evaluation.bootstrap_draws=200", "training.epochs=1")


def run(output, demo_root, *arguments: str) -> int:
    own = ("data.dataloader.num_workers=0", f"data.root={demo_root}", f"output_dir={output}")
    with pytest.raises(SystemExit) as ended:
        main(
            ["experiment", "size", "--config", str(CHECKOUT / "configs/config.yaml"), *DESIGN, *QUICK, *own, *arguments]
        )
    return ended.value.code or 0


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers  # the command's own handlers write to a stream that capsys has closed


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo_root):
    """An experiment of five sizes and two seeds, and the rows whose images its fits read."""
    torch.set_num_threads(1)
    output = tmp_path_factory.mktemp("size") / "outputs"
    seen, get = set(), ImageStore.get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageStore, "get", lambda store, row: seen.add(row) or get(store, row))
        assert run(output, demo_root) == 0
    return output, seen


@pytest.fixture
def folder(finished):
    return finished[0] / "tiny/size/latest"


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished experiment that tests may change."""
    shutil.copytree(finished[0], tmp_path / "outputs", symlinks=True)
    return tmp_path / "outputs/tiny/size/latest"


@pytest.fixture(scope="module")
def dataset(demo_root):
    return open_dataset(to_settings(load_config(CHECKOUT / "configs/config.yaml", [f"data.root={demo_root}"])))


def draws_of(folder, seed):
    """The splits of each size, the smallest first."""
    files = folder.glob(f"draws/*/seed_{seed}_fold_0/splits.json")
    splits = [json.loads(file.read_text())["splits"] for file in files]
    return sorted(splits, key=lambda own: len(own["train"]))


def test_draws_are_nested_whole_groups_with_both_labels(folder, dataset):
    row_of = {row_id: row for row, row_id in enumerate(dataset.table.ids)}
    whole = json.loads((folder / "fold_0/splits.json").read_text())["splits"]
    for seed in SEEDS:
        draws = draws_of(folder, seed)
        assert len(draws) == 5
        assert set(draws[-1]["train"]) == set(whole["train"])
        for name in ("train", "val_select"):
            groups = dataset.groups.names[[row_of[row_id] for row_id in whole[name]]]
            for smaller, larger in zip(draws, [*draws[1:], whole], strict=True):
                assert set(smaller[name]) <= set(larger[name])
                drawn = np.isin(whole[name], smaller[name])
                assert not set(groups[drawn]) & set(groups[~drawn])
                assert set(dataset.table.labels[[row_of[row_id] for row_id in smaller[name]]]) == {0, 1}
    assert draws_of(folder, 0)[0]["train"] != draws_of(folder, 1)[0]["train"]


def test_all_fits_are_evaluated_on_the_same_unseen_rows(finished, folder, dataset):
    whole = json.loads((folder / "fold_0/splits.json").read_text())["splits"]
    files = list(folder.glob("fits/*/*/predictions.parquet"))
    assert len(files) == 10
    for file in files:
        assert sorted(pd.read_parquet(file)["id"]) == sorted(whole["val_calib"])
    seen = set(dataset.table.ids[sorted(finished[1])])
    assert seen == {*whole["train"], *whole["val_select"], *whole["val_calib"]}
    assert not seen & set(whole["val_test"])
    assert "val_test_openings" not in json.loads((folder / "manifest.json").read_text())


def test_small_sets_train_for_more_epochs(folder):
    for fit in folder.glob("fits/*/*"):
        cfg = OmegaConf.load(next(fit.glob("2*/config.yaml")))
        n_train = len(json.loads((folder / "draws" / fit.relative_to(folder / "fits") / "splits.json").read_text())
                      ["splits"]["train"])  # fmt: skip
        steps = math.ceil(n_train / 16)
        assert cfg.training.epochs == math.ceil(8 / steps)
        assert json.loads((fit / "fit.json").read_text())["steps"] == steps * cfg.training.epochs


def test_by_default_all_sizes_make_equal_steps(tiny_config):
    plan = plan_sizes(tiny_config("training.epochs=4"), SizeDesign(5, 1.5, 2, 3))
    steps = [fit.cfg.training.epochs * math.ceil(len(fit.splits.ids["train"]) / 16) for fit in plan.fits]
    largest = plan.fits[-1]
    assert largest.cfg.training.epochs == 4
    an_epoch = math.ceil(len(largest.splits.ids["train"]) / 16)
    assert min(steps) == 4 * an_epoch
    assert max(steps) < 5 * an_epoch


def test_the_report_agrees_with_the_predictions(folder):
    report = json.loads((folder / "size.json").read_text())
    assert [size["photos"] for size in report["sizes"]] == [
        np.mean([len(draws_of(folder, seed)[number]["train"]) for seed in SEEDS]) for number in range(5)
    ]
    largest = report["sizes"][-1]
    facts = [json.loads(file.read_text()) for file in folder.glob(f"fits/{largest['photos']:.0f}_photos/*/fit.json")]
    assert largest["steps"] == np.mean([fact["steps"] for fact in facts])
    frames = [
        pd.read_parquet(next(folder.glob(f"fits/{largest['photos']:.0f}_photos/seed_{seed}_*/pred*"))) for seed in SEEDS
    ]
    by_seed = [matthews_corrcoef(frame["label"], frame["probability"] >= 0.5) for frame in frames]
    assert largest["by_seed"] == pytest.approx(by_seed)
    assert largest["mcc"] == pytest.approx(np.mean(by_seed))
    assert f"{largest['mcc']:.4f}" in (folder / "size.md").read_text()
    assert "<svg" in (folder / "size.svg").read_text()


def test_resume_trains_only_what_is_not_finished(copied, demo_root, capsys):
    before = json.loads((copied / "size.json").read_text())
    removed = min(copied.glob("fits/*/seed_1_fold_0/fit.json"))
    kept = {file: file.stat().st_mtime_ns for file in copied.glob("fits/*/seed_0*/*") if file.is_file()}
    removed.unlink()
    assert run(copied.parents[2], demo_root, "--resume", "latest", "--label-error", "0.02") == 0
    assert "9 of 10 fits" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    after = json.loads((copied / "size.json").read_text())
    assert after["sizes"] == before["sizes"]
    assert after["labels"]["ceiling"] < 0.97


@pytest.mark.parametrize(
    ("changed", "code", "key"),
    [
        (["--resume", "latest", "--seeds", "3"], 2, "--seeds was 2, now 3"),
        (["--label-error", "0.7"], 2, "0.7"),
        (["--label-error", "nowhere"], 2, "nowhere"),
        (["--sizes", "9", "--ratio", "3"], 1, "--sizes"),
        (["data.dataloader.batch_size=auto"], 2, "batch_size"),
    ],
)
def test_invalid_requests_give_one_clear_error(copied, demo_root, capsys, changed, code, key):
    assert run(copied.parents[2], demo_root, *changed) == code
    captured = capsys.readouterr()
    assert key in " ".join((captured.err + captured.out).split())


@pytest.mark.slow
def test_a_frozen_backbone_trains_heads_on_features(demo_root, tmp_path):
    assert run(tmp_path, demo_root, "training.freeze_backbone=true", "data.augmentation.train.mode=none") == 0
    facts = [json.loads(file.read_text()) for file in tmp_path.glob("tiny/size/latest/fits/*/*/fit.json")]
    assert len(facts) == 10
    assert {fact["trainable"] for fact in facts} == {34.0}
