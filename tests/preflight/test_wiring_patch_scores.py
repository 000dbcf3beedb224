"""Wiring table: the check of model.pooling=top_patches passes a working network and fails each broken one."""

import pytest
import torch
from fixtures.detectors import TINY_NETWORKS
from fixtures.wiring import failed, failed_checks, wiring_table

from roadwork.models import classifier
from roadwork.models.classifier import PooledClassifier
from roadwork.models.patch_head import N_COLORS, PatchColors
from roadwork.preflight import dry_run


@pytest.fixture
def vit_config(tiny_config):
    """Makes a configuration of a tiny ViT with 16 patches, of which the two highest count."""

    def make(*overrides):
        pooling = ("model.pooling=top_patches", "model.top_patches=2")
        cfg = tiny_config("data.dataloader.num_workers=0", *pooling, *overrides)
        cfg.model.name, cfg.model.config = "vit", TINY_NETWORKS["vit"]
        return cfg

    return make


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_patch_scores_are_checked(vit_config, adapter):
    table = wiring_table(vit_config(f"training.adapter={adapter}"))
    assert not failed(table)
    assert "2 highest of 16" in table["patch scores"].observed


def test_other_poolings_have_no_patch_scores(vit_config):
    assert "patch scores" not in wiring_table(vit_config("model.pooling=cls"))


def mean_of_all(patch_logits, count):
    return patch_logits.mean(dim=1)


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (classifier, "top_patch_logits", mean_of_all),
        (PooledClassifier, "_patches", lambda self, features: features.last_hidden_state),
        (PooledClassifier, "_patches", lambda self, features: features.last_hidden_state[:, :1]),
        (PooledClassifier, "patch_margins", lambda self, pixels: torch.zeros(len(pixels), 16)),
    ],
)
def test_a_broken_head_fails_the_check(vit_config, monkeypatch, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    assert "patch scores" in failed_checks(vit_config())


@pytest.mark.parametrize("key", ["training.adapter=none", "training.adapter=lora", "training.freeze_backbone=true"])
def test_the_color_head_is_checked(vit_config, key):
    overrides = ("model.patch_head=color", key)
    table = wiring_table(vit_config(*overrides))
    assert not failed(table)
    assert f"of {N_COLORS} colours" in table["patch head"].observed


@pytest.mark.parametrize(
    ("owner", "name", "broken"),
    [
        (dry_run, "fit_patch_components", lambda network, datamodule: None),
        (PatchColors, "forward", lambda self, images: torch.zeros(len(images), 16, N_COLORS)),
    ],
)
def test_a_color_head_without_components_or_colors_fails(vit_config, monkeypatch, owner, name, broken):
    monkeypatch.setattr(owner, name, broken)
    assert "patch head" in failed_checks(vit_config("model.patch_head=color"))
