"""Cuts each wire of a frozen backbone in turn, and sees the dry run say so."""

from contextlib import nullcontext

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from roadwork.data import features as features_module
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ImageStore
from roadwork.data.features import FeatureDataset, Features
from roadwork.data.images import TRAINING_SCALE
from roadwork.models.processor import ImageStatistics
from roadwork.preflight import training_wires as frozen_wires
from roadwork.preflight.checks import Preflight
from roadwork.preflight.dry_run import run_dry
from roadwork.preflight.recorder import WireRow
from roadwork.training import module as module_module
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.factory import prepare_trainer

FROZEN = (
    "training.freeze_backbone=true",
    "data.augmentation.train.mode=none",
    "data.dataloader.num_workers=0",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))


def table(cfg: DictConfig) -> list[WireRow]:
    datamodule = NATIXDataModule(cfg)
    return run_dry(datamodule, prepare_trainer(datamodule))


def dead_wires(cfg: DictConfig) -> set[str]:
    return {row.wire for row in table(cfg) if not row.works}


@pytest.mark.parametrize(
    ("overrides", "wires"),
    [
        (FROZEN, {"frozen backbone", "frozen features"}),
        ((*FROZEN, "training.use_ema=false"), {"frozen backbone", "frozen features"}),
        ((*FROZEN, "training.precision=bf16-mixed"), {"frozen backbone", "frozen features"}),
        (FROZEN[:1], {"frozen backbone"}),
        (FROZEN[1:2], set()),
    ],
    ids=["frozen", "without EMA", "bf16", "augmented", "not frozen"],
)
def test_every_check_of_a_working_run_passes(tiny_config, overrides, wires):
    rows = table(tiny_config(*overrides))
    assert [f"{row.wire}: {row.observed}" for row in rows if not row.works] == []
    assert {row.wire for row in rows if row.wire.startswith("frozen")} == wires


def test_features_of_a_handful_of_rows_are_computed(tiny_config, monkeypatch):
    rows, run = [], features_module._run_backbone

    def record(*arguments):
        for item in run(*arguments):
            rows.append(item[0])
            yield item

    monkeypatch.setattr(features_module, "_run_backbone", record)
    table(tiny_config(*FROZEN))
    assert len(rows) == frozen_wires.COMPARED


def test_nothing_is_frozen(tiny_config, monkeypatch):
    monkeypatch.setattr(module_module, "freeze_backbone", lambda network: None)
    assert dead_wires(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_one_layer_is_not_frozen(tiny_config, monkeypatch):
    original = module_module.freeze_backbone

    def freeze_nearly_all(network):
        original(network)
        next(network.parameters()).requires_grad_()

    monkeypatch.setattr(module_module, "freeze_backbone", freeze_nearly_all)
    assert dead_wires(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_batch_norm_keeps_updating(tiny_config, monkeypatch):
    monkeypatch.setattr(RoadworkClassifier, "on_train_start", lambda self: None)
    assert dead_wires(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_the_head_does_not_learn(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.training.module.warmup_cosine",
        lambda optimizer, total, warmup: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0),
    )
    assert "frozen backbone" in dead_wires(tiny_config(*FROZEN))


def of_other_rows(original):
    def run(*arguments):
        rows, values = zip(*original(*arguments), strict=True)
        yield from zip(rows, values[::-1], strict=True)

    return run


@pytest.mark.parametrize("cut", ["rows", "normalisation", "scale", "lookup", "mode"])
def test_features_that_are_not_those_of_the_images(tiny_config, monkeypatch, cut):
    if cut == "rows":
        monkeypatch.setattr(features_module, "_run_backbone", of_other_rows(features_module._run_backbone))
    elif cut == "normalisation":
        other = ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
        monkeypatch.setattr(features_module, "image_statistics", lambda model: other)
    elif cut == "scale":
        monkeypatch.setattr(
            features_module, "ImageStore", lambda source, size: ImageStore(source, size, scale=TRAINING_SCALE)
        )
    elif cut == "lookup":
        monkeypatch.setattr(Features, "of", lambda self, rows: self.values[::-1].copy())
    else:
        monkeypatch.setattr(features_module, "in_evaluation_mode", lambda network: nullcontext(network.train()))
    assert dead_wires(tiny_config(*FROZEN, "data.img_size=48")) == {"frozen features"}


def test_labels_of_other_rows_beside_the_features(tiny_config, monkeypatch):
    original = FeatureDataset.__getitems__

    def flipped(self, indices):
        batch = original(self, indices)
        return batch | {"label": 1 - batch["label"]}

    monkeypatch.setattr(FeatureDataset, "__getitems__", flipped)
    assert dead_wires(tiny_config(*FROZEN)) == {"frozen features"}


def test_features_bypass_the_head(tiny_config, monkeypatch):
    monkeypatch.setattr(module_module, "head_of", lambda network: nn.Linear(16, 2))
    assert dead_wires(tiny_config(*FROZEN)) == {"frozen features"}


def test_images_that_change_though_nothing_augments_them(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.data.augmentation.build.NoAugmentation.augment",
        lambda self, images, labels: (images.flip(3), labels),
    )
    assert dead_wires(tiny_config(*FROZEN)) == {"augmentation (none)"}


def test_labels_that_change_though_nothing_augments_them(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.data.augmentation.build.NoAugmentation.augment",
        lambda self, images, labels: (images, 1 - labels),
    )
    assert dead_wires(tiny_config(*FROZEN)) == {"labels of training"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [(FROZEN, "for the features of 180 images, once"), (FROZEN[:1], "of training steps for 1 epochs of 144 images")],
)
def test_preflight_reports_the_expected_cost(tiny_config, overrides, said):
    checks = {
        check.name: check for check in Preflight(tiny_config(*overrides, "data.dataloader.batch_size=auto")).run()
    }
    assert checks["time"].status == "ok"
    assert said in checks["time"].found
