"""Photos that any network tells apart, and faults to plant in a fit of one."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from conftest import CHECKOUT
from lightning.pytorch.callbacks import Callback
from PIL import Image
from roadwork.training.callbacks.health_callback import HealthCallback

from roadwork.config import load_config
from roadwork.core.errors import DivergedError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.training import module as module_file
from roadwork.training.module import training_loss
from roadwork.training.trainers import base_trainer
from roadwork.training.trainers.base_trainer import BaseTrainer

SIZE = 32
SPLITS = {"train": 40, "val_select": 16, "val_calib": 4, "val_test": 4}
N_STEPS = 5  # of an epoch, with batches of 8


def make_photos(root: Path) -> Path:
    """64 photos of noise on a bright ground (Roadwork) or a dark one, with splits."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    names, lines = [], ["filename,label,latitude,longitude"]
    for number in range(sum(SPLITS.values())):
        label = number % 2
        pixels = rng.integers(0, 100, (SIZE, SIZE, 3)) + 150 * label
        names.append(f"photo_{number:02d}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(root / names[-1])
        lines.append(f"{names[-1]},{('None', 'Roadwork')[label]},{48 + number / 10},{number / 10}")
    (root / "labels.csv").write_text("\n".join(lines))
    ends = np.cumsum(list(SPLITS.values()))
    splits = {name: names[end - SPLITS[name] : end] for name, end in zip(SPLITS, ends, strict=True)}
    (root / "splits.json").write_text(json.dumps(splits))
    return root


class EasyFits:
    """Fits of a tiny network on such photos, which learns in its first epoch.

    Photos, splits and configuration are read once: a fit of these sizes takes less than they.
    """

    def __init__(self, folder: Path, *overrides: str):
        self.folder = folder
        cfg = load_config(
            CHECKOUT / "configs" / "config.yaml",
            [
                "model.config={embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}",
                f"data.img_size={SIZE}",
                "data.dataloader.batch_size=8",
                "data.augmentation.train.mode=none",
                "data.gps_sampling.enabled=false",
                f"data.root={make_photos(folder / 'photos')}",
                f"output_dir={folder / 'outputs'}",
                "training.epochs=2",
                "training.lr=0.01",
                "training.deterministic=true",
                "training.checkpoint_minutes=0",
                *overrides,
            ],
        )
        self.datamodule = NATIXDataModule(cfg)
        self.datamodule.setup("fit")

    def trainer(self, **training) -> BaseTrainer:
        """A trainer with a new network, with these settings of `training`."""
        settings = copy.deepcopy(self.datamodule.settings)
        settings.training = replace(settings.training, **training)
        torch.manual_seed(0)
        model = build_model(settings.model, SIZE)
        with patch.object(base_trainer, "to_settings", lambda cfg: settings):
            return BaseTrainer(self.datamodule.cfg, model)

    def fit(self, *callbacks, prepare=None, resume_from=None, **training) -> BaseTrainer:
        """Trains; the callbacks are called after EMA and before HealthCallback."""
        trainer = self.trainer(**training)
        trainer.callbacks += callbacks
        if prepare:
            prepare(trainer)
        trainer.fit(self.datamodule, resume_from)
        return trainer

    def latest(self) -> Path:
        return (self.folder / "outputs" / "default" / "latest").resolve()


def health_of(trainer, kind):
    """The callback of a class in the Lightning trainer of a run."""
    return next(c for c in trainer.trainer.callbacks if isinstance(c, kind))


class NanInBatch(Callback):
    """Plants NaN in one pixel (or feature) of one row of the training batches for which `where(epoch, batch)` holds."""

    def __init__(self, where, value=float("nan"), row=3):
        self.where, self.value, self.row = where, value, row
        self.rows = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.where(trainer.current_epoch, batch_idx):
            values = batch["features"] if "features" in batch else batch["image"]
            values.view(len(values), -1)[self.row, 0] = self.value
            self.rows.append(int(batch["index"][self.row]))


def everything(trainer, pl_module, ema=None):
    """Copies of all that a step changes: weights, buffers, the optimizer's moments, the average."""
    tensors = {f"model.{name}": value for name, value in pl_module.state_dict().items()}
    for number, state in trainer.optimizers[0].state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    if ema is not None:
        tensors |= {f"average.{name}": value for name, value in (ema.shadow | ema.shadow_buffers).items()}
        tensors["average.n"] = torch.tensor(ema.n_updates)
    return {name: value.detach().clone() for name, value in tensors.items()}


def differing(left, right):
    return sorted(
        n for n in left.keys() | right.keys() if n not in left or n not in right or not torch.equal(left[n], right[n])
    )


class Infinite(Callback):
    """Makes the loss of one rank infinite in a step, with gradients that are finite."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        is_due = trainer.global_step == 4 and trainer.global_rank == 1
        module_file.training_loss = lambda *rest: training_loss(*rest) + (float("inf") if is_due else 0)


def train_with_faults(rank: int, port: int, folder: str) -> None:
    """One of two: the second has NaN in each epoch's first step, an infinite loss in the fifth; then NaN for good."""
    torch.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    easy = EasyFits(Path(folder) / f"rank {rank}", "training.devices=2", "training.accelerator=cpu")
    try:
        faults = [NanInBatch(lambda epoch, batch: batch == 0), Infinite()] if rank else [Infinite()]
        trainer = easy.fit(*faults, epochs=2)
        found = everything(trainer.trainer, trainer.module, trainer.ema_callback)
        found["n_skipped"] = torch.tensor(health_of(trainer, HealthCallback).n_skipped)
        torch.save(found, Path(folder) / f"{rank}.pt")
        try:
            easy.fit(*([NanInBatch(lambda epoch, batch: batch >= 1)] if rank else []), max_skipped_steps=1)
        except DivergedError as error:
            (Path(folder) / f"{rank}.txt").write_text(str(error))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
