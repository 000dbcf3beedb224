"""Tiny pretrained networks of every family, trained for a few steps with an adapter, without a data set."""

import json
from functools import cache
from pathlib import Path

import torch
from conftest import CHECKOUT
from detector_world import ALL_NETWORKS, SIZE
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from roadwork.config import load_config, to_settings
from roadwork.detector.format import Preprocessing
from roadwork.models.build import build_model
from roadwork.models.processor import IMAGENET_STATISTICS, PROCESSOR_FILE
from roadwork.settings import ModelSettings
from roadwork.training.initialization import find_omittable
from roadwork.training.trainers.base_trainer import BaseTrainer, build_lightning_trainer

STEPS_PER_EPOCH, EPOCHS = 2, 2


def make_pretrained(folder: Path, family: str) -> Path:
    """A folder with the weights of a tiny network, to be named in `model.name`."""
    torch.manual_seed(7)
    build_model(ModelSettings(name=family, config=ALL_NETWORKS[family]), SIZE).save_pretrained(folder)
    (folder / PROCESSOR_FILE).write_text(json.dumps(Preprocessing(SIZE, IMAGENET_STATISTICS).as_config()))
    return folder


def adapter_config(pretrained: Path, adapter: str, *overrides: str):
    """The whole configuration of a run that starts from such a folder; `head` is a frozen backbone."""
    one = "training.freeze_backbone=true" if adapter == "head" else f"training.adapter={adapter}"
    cfg = _shipped().copy()
    cfg.merge_with_dotlist([one, *overrides])
    cfg.model.name, cfg.model.pretrained, cfg.model.config = str(pretrained), True, {}
    return cfg


@cache
def _shipped():
    return load_config(
        CHECKOUT / "configs" / "config.yaml",
        [
            f"data.img_size={SIZE}",
            f"training.epochs={EPOCHS}",
            "training.adapter_rank=2",
            "training.lr=0.02",
            "training.warmup=0.0",
            "training.deterministic=true",
        ],
    )


def prepare(cfg) -> BaseTrainer:
    """A trainer as `BaseTrainer.fit` has it just before the first step."""
    settings = to_settings(cfg)
    torch.manual_seed(settings.training.seed)
    trainer = BaseTrainer(cfg, build_model(settings.model, settings.data.img_size))
    torch.manual_seed(settings.training.seed)  # as `fit` does
    trainer.module.omitted = find_omittable(trainer.module.model, settings)
    return trainer


def train(trainer: BaseTrainer, folder: Path, resume_from: Path | None = None) -> BaseTrainer:
    """Trains on a few images; leaves `config.yaml` and a checkpoint of each epoch, `checkpoints/0.ckpt` and so on."""
    lightning_trainer = build_lightning_trainer(
        trainer.settings.training,
        [*trainer.callbacks, ModelCheckpoint(folder / "checkpoints", filename="{epoch}", save_top_k=-1,
                                             auto_insert_metric_name=False, enable_version_counter=False)],
        folder,
        logger=False, num_sanity_val_steps=0, enable_progress_bar=False,
    )  # fmt: skip
    lightning_trainer.fit(trainer.module, batches(), batches(), ckpt_path=resume_from, weights_only=True)
    OmegaConf.save(trainer.cfg, folder / "config.yaml", resolve=True)
    return trainer


def batches() -> DataLoader:
    """Two batches of four images, dark ones of None and bright ones of Roadwork."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 1, 0, 1] * STEPS_PER_EPOCH)
    images = torch.randn(len(labels), 3, SIZE, SIZE, generator=generator) * 0.3 + (labels * 2.0 - 1).view(-1, 1, 1, 1)
    rows = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    return DataLoader(rows, batch_size=4)
