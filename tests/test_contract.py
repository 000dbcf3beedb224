"""Each line of the contract that is built so far, as users' scripts and checklists have it, under both import names."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from peft import AdaLoraConfig, IA3Config, VeraConfig
from torch.utils.data import Sampler

CHECKOUT = Path(__file__).resolve().parents[1]

MODULES = {
    "data.utils.gps_utils": "parse_gps_string",
    "data.samplers.gps_weighted_sampler": "GPSWeightedSampler",
    "data.augmentation.heavy_aug_kornia": "HeavyAugmentationKornia",
    "data.augmentation.latest_aug_2025": "LatestAugmentation2025",
    "data.datamodule": "NATIXDataModule",
    "training.callbacks.mcc_callback": "MCCCallback",
    "training.callbacks.ema_callback": "EMACallback",
    "training.trainers.base_trainer": "BaseTrainer",
    "training.lora.adalora_config": "create_adalora_config",
    "training.lora.vera_config": "create_vera_config",
    "training.lora.ia3_config": "create_ia3_config",
}


@pytest.fixture
def in_checkout(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.syspath_prepend(str(CHECKOUT))


@pytest.mark.parametrize(("module", "name"), MODULES.items())
def test_a_name_is_one_object_under_both_packages(in_checkout, module, name):
    assert getattr(importlib.import_module(f"src.{module}"), name) is getattr(
        importlib.import_module(f"roadwork.{module}"), name
    )


@pytest.mark.parametrize("module", MODULES)
def test_users_shell_lines(module):
    path = f"src/{module.replace('.', '/')}.py"
    assert subprocess.run(["ls", path], cwd=CHECKOUT, capture_output=True, check=True).stdout
    subprocess.run([sys.executable, "-m", "py_compile", path], cwd=CHECKOUT, check=True)


def test_src_is_a_symbolic_link_in_git():
    assert (CHECKOUT / "src").readlink() == Path("roadwork")


def test_parse_gps_string():
    from src.data.utils.gps_utils import parse_gps_string

    assert parse_gps_string("(52.52, 13.40)") == (52.52, 13.40)


def test_sampler(in_checkout):
    from src.data.samplers.gps_weighted_sampler import GPSWeightedSampler

    class Dataset:
        gps = np.array([[52.5, 13.4], [48.1, 11.6], [np.nan, np.nan], [40.7, -74.0]])

        def __len__(self):
            return 4

    test_gps = np.array([[52.52, 13.40], [52.4, 13.3]])
    sampler = GPSWeightedSampler(data_source=Dataset(), test_gps=test_gps, n_clusters=1, random_seed=42)
    assert isinstance(sampler, Sampler)
    assert sampler.weights.tolist() == [5.0, 0.3, 1.0, 0.3]  # Munich is 504 km away
    assert sampler.distances_km.shape == (4,)
    assert sampler.cluster_centers.shape == (1, 2)
    assert len(list(sampler)) == len(sampler) == 4
    assert "weight" in str(sampler.summary())
    own = GPSWeightedSampler(
        data_source=Dataset(), test_gps=test_gps, n_clusters=1, weight_brackets=[[0, 600, 2], [600, "inf", 1]]
    )
    assert own.weights.tolist() == [2, 2, 1, 1]


def test_heavy_augmentation():
    from src.data.augmentation.heavy_aug_kornia import HeavyAugmentationKornia

    aug = HeavyAugmentationKornia(img_size=640)
    images, labels = aug(torch.rand(2, 3, 480, 640), torch.tensor([0, 1]))
    assert images.shape == (2, 3, 640, 640)
    assert labels.tolist() == [0, 1]


def test_latest_augmentation():
    from src.data.augmentation.latest_aug_2025 import LatestAugmentation2025

    aug = LatestAugmentation2025(img_size=640)
    images, labels = aug(torch.rand(2, 3, 480, 640), torch.tensor([0, 1]))
    assert images.shape == (2, 3, 640, 640)
    assert labels.shape == (2, 2)
    torch.testing.assert_close(labels.sum(dim=1), torch.ones(2))


def test_data_module_from_plain_omegaconf(in_checkout, demo_root, monkeypatch):
    monkeypatch.setenv("ROADWORK_DATA", str(demo_root))
    from src.data.datamodule import NATIXDataModule

    cfg = OmegaConf.load("configs/config.yaml")
    cfg.data.gps_sampling.enabled = True
    cfg.data.augmentation.train.mode = "latest_2025"
    dm = NATIXDataModule(cfg)
    dm.setup("fit")
    assert len(dm.train_dataloader()) == -(-len(dm.datasets["train"]) // 32)
    assert type(dm._get_train_transforms(cfg)).__name__ == "LatestAugmentation2025"
    points = dm._get_test_gps_coords()
    assert points.ndim == 2
    assert points.shape[1] == 2
    assert np.abs(points[:, 0]).max() <= 90


def test_unknown_augmentation_mode(in_checkout):
    from src.data.datamodule import NATIXDataModule

    cfg = OmegaConf.load("configs/config.yaml")
    cfg.data.augmentation.train.mode = "latest_2024"
    with pytest.raises(ValueError, match=r"Unknown augmentation mode: .*latest_2025.*heavy_kornia"):
        NATIXDataModule(cfg)._get_train_transforms(cfg)


def test_users_override_the_two_seams(tiny_config):
    from roadwork.data.datamodule import NATIXDataModule

    class Own(NATIXDataModule):
        def _get_train_transforms(self, cfg):
            return torch.nn.Identity()

        def _get_test_gps_coords(self):
            return np.array([[-33.9, 151.2]])

    dm = Own(tiny_config("data.gps_sampling.n_clusters=1"))
    dm.setup("fit")
    dm.train_dataloader()
    np.testing.assert_allclose(dm.train_sampler.cluster_centers, [[-33.9, 151.2]])
    assert isinstance(dm.train_augmentation, torch.nn.Identity)


def test_mcc_callback():
    from src.training.callbacks.mcc_callback import MCCCallback

    callback = MCCCallback()
    assert callback.best_mcc == -1.0
    callback.on_batch_end(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert callback.on_epoch_end(0) == {"mcc": 1.0, "best_mcc": 1.0}
    with pytest.warns(RuntimeWarning):
        assert callback.on_epoch_end(1) == {}


def test_ema_callback():
    from src.training.callbacks.ema_callback import EMACallback

    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    callback = EMACallback(model, decay=0.999)
    torch.nn.init.zeros_(model.weight)
    callback.update()
    torch.testing.assert_close(callback.shadow["weight"], torch.full((1, 2), 0.999))
    callback.apply_shadow()
    torch.testing.assert_close(model.weight.data, torch.full((1, 2), 0.999))
    callback.restore()
    assert model.weight.tolist() == [[0.0, 0.0]]


def test_base_trainer_registers_callbacks(tiny_config):
    from roadwork.models.build import build_model
    from roadwork.settings import ModelSettings
    from src.training.trainers.base_trainer import BaseTrainer

    model = build_model(ModelSettings(config={"embedding_size": 8, "hidden_sizes": [8], "depths": [1]}), 32)
    trainer = BaseTrainer(tiny_config(), model)
    assert trainer.mcc_callback in trainer.callbacks
    assert trainer.ema_callback in trainer.callbacks
    assert trainer.ema_callback.decay == 0.999
    without = BaseTrainer(tiny_config("training.use_ema=false"), model)
    assert not hasattr(without, "ema_callback")
    assert without.callbacks == [without.mcc_callback]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("create_adalora_config", AdaLoraConfig), ("create_vera_config", VeraConfig), ("create_ia3_config", IA3Config)],
)
def test_adapter_configs(name, kind):
    module = importlib.import_module(f"roadwork.training.lora.{name.removeprefix('create_')}")
    assert isinstance(getattr(module, name)(), kind)


def test_all_imports_at_once():
    lines = "; ".join(f"from src.{module} import {name}" for module, name in MODULES.items())
    done = subprocess.run([sys.executable, "-c", lines], cwd=CHECKOUT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_split_ratios_stand_on_lines_of_their_own():
    text = (CHECKOUT / "configs/data/natix.yaml").read_text()
    assert "splits:\n  train: 0.60\n  val_select: 0.15\n  val_calib: 0.15\n  val_test: 0.10\n" in text
