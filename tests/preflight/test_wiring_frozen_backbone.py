"""Wiring table: the checks of a frozen backbone pass a working run and fail each broken one."""

from contextlib import nullcontext

import pytest
import torch
from fixtures.wiring import failed, failed_checks, wiring_table
from torch import nn

from roadwork.data import features as features_module
from roadwork.data.dataset import ImageStore
from roadwork.data.features import FeatureDataset, Features
from roadwork.data.images import TRAINING_SCALE
from roadwork.models.processor import ImageStatistics
from roadwork.preflight.checks import Preflight
from roadwork.preflight.training_wires import COMPARED
from roadwork.training import module as module_module
from roadwork.training.module import RoadworkClassifier

FROZEN = (
    "training.freeze_backbone=true",
    "data.augmentation.train.mode=none",
    "data.dataloader.num_workers=0",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (FROZEN, {"frozen backbone", "frozen features"}),
        ((*FROZEN, "training.use_ema=false"), {"frozen backbone", "frozen features"}),
        ((*FROZEN, "training.precision=bf16-mixed"), {"frozen backbone", "frozen features"}),
        (FROZEN[:1], {"frozen backbone"}),
        (FROZEN[1:2], set()),
    ],
    ids=["frozen", "without EMA", "bf16", "augmented", "not frozen"],
)
def test_every_check_of_a_working_run_passes(tiny_config, overrides, names):
    table = wiring_table(tiny_config(*overrides))
    assert failed(table) == {}
    assert {name for name in table if name.startswith("frozen")} == names


def test_features_of_few_rows_are_computed(tiny_config, monkeypatch):
    rows, run = [], features_module._run_backbone

    def record(*arguments):
        for item in run(*arguments):
            rows.append(item[0])
            yield item

    monkeypatch.setattr(features_module, "_run_backbone", record)
    wiring_table(tiny_config(*FROZEN))
    assert len(rows) == COMPARED


def test_unfrozen_backbone_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(module_module, "freeze_backbone", lambda network: None)
    assert failed_checks(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_one_unfrozen_layer_fails(tiny_config, monkeypatch):
    original = module_module.freeze_backbone

    def freeze_nearly_all(network):
        original(network)
        next(network.parameters()).requires_grad_()

    monkeypatch.setattr(module_module, "freeze_backbone", freeze_nearly_all)
    assert failed_checks(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_batch_norm_that_keeps_updating_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(RoadworkClassifier, "on_train_start", lambda self: None)
    assert failed_checks(tiny_config(*FROZEN)) == {"frozen backbone"}


def test_head_that_does_not_learn_fails(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.training.module.warmup_cosine",
        lambda optimizer, total, warmup: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0),
    )
    assert "frozen backbone" in failed_checks(tiny_config(*FROZEN))


def reverse_rows(original):
    def run(*arguments):
        rows, values = zip(*original(*arguments), strict=True)
        yield from zip(rows, values[::-1], strict=True)

    return run


@pytest.mark.parametrize("fault", ["rows", "normalisation", "scale", "lookup", "mode"])
def test_wrong_features_fail(tiny_config, monkeypatch, fault):
    if fault == "rows":
        monkeypatch.setattr(features_module, "_run_backbone", reverse_rows(features_module._run_backbone))
    elif fault == "normalisation":
        other = ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.1, 0.1, 0.1))
        monkeypatch.setattr(features_module, "image_statistics", lambda model: other)
    elif fault == "scale":
        monkeypatch.setattr(
            features_module, "ImageStore", lambda source, size: ImageStore(source, size, scale=TRAINING_SCALE)
        )
    elif fault == "lookup":
        monkeypatch.setattr(Features, "of", lambda self, rows: self.values[::-1].copy())
    else:
        monkeypatch.setattr(features_module, "in_evaluation_mode", lambda network: nullcontext(network.train()))
    assert failed_checks(tiny_config(*FROZEN, "data.img_size=48")) == {"frozen features"}


def test_features_with_wrong_labels_fail(tiny_config, monkeypatch):
    original = FeatureDataset.__getitems__

    def flipped(self, indices):
        batch = original(self, indices)
        return batch | {"label": 1 - batch["label"]}

    monkeypatch.setattr(FeatureDataset, "__getitems__", flipped)
    assert failed_checks(tiny_config(*FROZEN)) == {"frozen features"}


def test_features_that_bypass_the_head_fail(tiny_config, monkeypatch):
    monkeypatch.setattr(module_module, "head_of", lambda network: nn.Linear(16, 2))
    assert failed_checks(tiny_config(*FROZEN)) == {"frozen features"}


def test_changed_images_without_augmentation_fail(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.data.augmentation.build.NoAugmentation.augment",
        lambda self, images, labels: (images.flip(3), labels),
    )
    assert failed_checks(tiny_config(*FROZEN)) == {"augmentation (none)"}


def test_changed_labels_without_augmentation_fail(tiny_config, monkeypatch):
    monkeypatch.setattr(
        "roadwork.data.augmentation.build.NoAugmentation.augment",
        lambda self, images, labels: (images, 1 - labels),
    )
    assert failed_checks(tiny_config(*FROZEN)) == {"labels of training"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [(FROZEN, "features of 180 images"), (FROZEN[:1], "1 epochs of 144 images")],
)
def test_preflight_reports_the_expected_cost(tiny_config, overrides, expected):
    checks = {
        check.name: check for check in Preflight(tiny_config(*overrides, "data.dataloader.batch_size=auto")).run()
    }
    assert checks["time"].status == "ok"
    assert expected in checks["time"].found
