"""The conditions of the ablation: what each builds, and the error if its keys have no effect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fixtures.config import CHECKOUT, TINY_MODEL
from fixtures.detectors import TINY_NETWORKS
from peft import PeftModel

from roadwork.config import load_config
from roadwork.core.errors import ConfigError, WiringError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.samplers.build import UniformSampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.experiments.ablation_fit import run_ablation
from roadwork.experiments.ablation_plan import CONDITION_SETS, Design, plan_ablation, select_conditions
from roadwork.settings import ADAPTERS, TrainingSettings
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.trainers import base_trainer
from roadwork.training.trainers.factory import prepare_trainer

RESNET, *SIZES = TINY_MODEL
VIT = ("model=vit_base", "model.name=vit", "model.pretrained=false", f"model.config={TINY_NETWORKS['vit']}")


def plan(demo_root, folder, conditions, network=(RESNET,)):
    """An ablation of one seed, its fits by condition, on a tiny network of random weights."""
    cfg = load_config(
        CHECKOUT / "configs/config.yaml",
        [*network, *SIZES, f"data.root={demo_root}", f"output_dir={folder}", "training.epochs=1"],
    )
    ablation = plan_ablation(cfg, Design(conditions, seeds=1, folds=2))
    return ablation, {fit.condition: fit for fit in ablation.fits}


@pytest.fixture(scope="module")
def parts(demo_root, tmp_path_factory):
    return plan(demo_root, tmp_path_factory.mktemp("parts"), "parts")


@pytest.fixture(scope="module")
def adapters(demo_root, tmp_path_factory):
    return plan(demo_root, tmp_path_factory.mktemp("adapters"), "adapters", VIT)


@pytest.mark.parametrize(
    ("condition", "is_weighted", "augmentation", "has_average"),
    [
        ("plain", False, "NoAugmentation", False),
        ("gps", True, "NoAugmentation", False),
        ("latest_2025", False, "LatestAugmentation2025", False),
        ("heavy_kornia", False, "HeavyAugmentationKornia", False),
        ("ema", False, "NoAugmentation", True),
        ("all", True, "LatestAugmentation2025", True),
    ],
)
def test_a_part_builds_what_it_names(parts, condition, is_weighted, augmentation, has_average):
    datamodule = NATIXDataModule(parts[1][condition].cfg)
    datamodule.setup("fit")
    datamodule.train_dataloader()
    sampler = datamodule.train_sampler
    assert (isinstance(sampler, GPSWeightedSampler) and len(np.unique(sampler.weights)) > 1) is is_weighted
    assert type(datamodule.train_augmentation).__name__ == augmentation
    assert hasattr(prepare_trainer(datamodule), "ema_callback") is has_average


def test_an_adapter_builds_what_it_names(adapters):
    seen = {}
    for condition, fit in adapters[1].items():
        network = prepare_trainer(NATIXDataModule(fit.cfg)).module.model
        config = network.peft_config["default"] if isinstance(network, PeftModel) else None
        trained = {name for name, p in network.named_parameters() if p.requires_grad}
        seen[condition] = (config and config.peft_type.name, bool(getattr(config, "use_dora", False)))
        only_head = all("classifier" in name for name in trained)
        assert only_head is (condition == "probe"), condition
    assert seen == {
        "full": (None, False),
        "lora": ("LORA", False),
        "dora": ("LORA", True),
        "adalora": ("ADALORA", False),
        "vera": ("VERA", False),
        "ia3": ("IA3", False),
        "probe": (None, False),
    }


def test_every_adapter_is_a_condition():
    assert set(ADAPTERS) - {"none"} <= set(CONDITION_SETS["adapters"])


def test_conditions_share_seeds_and_rows(parts):
    fits = parts[1]
    for fit in fits.values():
        assert (fit.cfg.training.seed, fit.cfg.data.gps_sampling.random_seed) == (0, 0)
        assert fit.cfg.data.splits_file == fits["plain"].cfg.data.splits_file
        assert (fit.cfg.training.epochs, fit.cfg.training.patience) == (1, 0)


def unweighted(datamodule):
    return UniformSampler(datamodule.datasets["train"], num_replicas=1, rank=0, shuffle=True)


BROKEN = {
    "gps": (NATIXDataModule, "_build_train_sampler", unweighted),
    "latest_2025": (NATIXDataModule, "augment", lambda self, images, labels: (images, labels)),
    "heavy_kornia": (NATIXDataModule, "augment", lambda self, images, labels: (images, labels)),
    "ema": (EMACallback, "update", lambda self: None),
    "lora": (base_trainer, "adapt_network", lambda model, *_: model),
}


@pytest.mark.parametrize("condition", list(BROKEN))
def test_failed_check_stops_the_ablation(parts, adapters, monkeypatch, condition):
    ablation, fits = adapters if condition == "lora" else parts
    monkeypatch.setattr(*BROKEN[condition])
    with pytest.raises(WiringError, match=rf"\b{condition}\b"):
        run_ablation(replace(ablation, fits=[fits[condition]]), lambda line: None)
    assert not fits[condition].facts_file.exists()


def test_invalid_network_is_refused_before_training(demo_root, tmp_path):
    ablation, fits = plan(demo_root, tmp_path, "vera")  # a ResNet has no linear layers for VeRA
    with pytest.raises(ConfigError, match="vera"):
        run_ablation(ablation, lambda line: None)
    assert not fits["full"].folder.exists()


def test_the_baseline_comes_first_and_is_added():
    assert list(select_conditions("ema,gps", TrainingSettings())) == ["plain", "gps", "ema"]
    assert list(select_conditions("parts", TrainingSettings())) == list(CONDITION_SETS["parts"])
    assert list(select_conditions("ia3", TrainingSettings())) == ["full", "ia3"]


def test_augmentation_is_no_condition_on_a_frozen_backbone(caplog):
    frozen = TrainingSettings(freeze_backbone=True)
    with caplog.at_level("INFO"):
        conditions = select_conditions("parts", frozen)
    assert list(conditions) == ["plain", "gps", "ema", "all"]
    assert {own["data.augmentation.train.mode"] for own in conditions.values()} == {"none"}
    assert conditions["all"]["data.gps_sampling.enabled"] is conditions["all"]["training.use_ema"] is True
    assert "latest_2025, heavy_kornia" in caplog.text


@pytest.mark.parametrize(
    ("wanted", "frozen", "key"),
    [
        ("emma", False, "'emma'"),
        ("ema,lora", False, "'ema,lora'"),
        ("plain", False, "'plain'"),
        ("latest_2025", True, "latest_2025.*training.freeze_backbone"),
        ("adapters", True, "training.freeze_backbone"),
    ],
)
def test_invalid_conditions_give_one_clear_error(wanted, frozen, key):
    with pytest.raises(ConfigError, match=key):
        select_conditions(wanted, TrainingSettings(freeze_backbone=frozen))


def test_each_seed_has_one_fold_unless_full():
    assert Design("parts", 4, 3).pairs == [(0, 0), (1, 1), (2, 2), (3, 0)]
    assert Design("parts", 2, 3, full=True).pairs == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
