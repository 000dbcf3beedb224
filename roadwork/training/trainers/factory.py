"""Builds a trainer from a configuration, with the largest batch that fits the device."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import OmegaConf
from torch import Tensor, nn

from roadwork.core.devices import available_bytes, devices_here
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.models.cost import bytes_per_image, state_bytes
from roadwork.runs.run import Run
from roadwork.training.devices import build_lightning_trainer
from roadwork.training.optim import build_optimizer
from roadwork.training.trainers.base_trainer import BaseTrainer

logger = logging.getLogger(__name__)

MIN_BATCH = 2  # CutMix and MixUp take two images
MAX_BATCH = 1024

# With fewer steps per epoch, the usual number of epochs learns little.
MIN_STEPS = 8

# A tenth of a GPU stays free for fragmentation, other shapes and other programs.
GPU_SHARE = 0.9

# A CPU's memory is only estimated, and the system kills a process that takes too much.
CPU_SHARE = 0.5


def find_batch_size(trainer: BaseTrainer, datamodule: NATIXDataModule) -> int:
    """The largest power of two of images per step that fits the device.

    It is at most 1024, and at most an eighth of a device's training rows. On a GPU, complete steps run (augmentation,
    forward, backward, AdamW, under the run's precision; not compiled) until one needs over nine tenths of the memory.
    On other devices the memory of a row is estimated, and a batch may use half of the available memory.

    The steps run on a copy of the network; the trainer and all random generators do not change.

    Args:
        trainer: with the network.
        datamodule: set up for the fit.

    Raises:
        ConfigError: not even a batch of two images fits.
    """
    training = trainer.settings.training
    n_devices = devices_here(training.devices, training.accelerator) * training.num_nodes
    cap = min(MAX_BATCH, len(datamodule.datasets["train"]) // (MIN_STEPS * n_devices))
    with isolate_rng():
        trial = _Trial(trainer, datamodule)
        if trial.device.type == "cuda":
            found, why = grow(trial.fits_gpu, cap), f"{GPU_SHARE:.0%} of {trial.device}'s free memory"
        else:
            free, a_row = CPU_SHARE * available_bytes() - trial.state_bytes(), trial.bytes_per_image()
            found = grow(lambda batch: batch * a_row <= free, cap)
            why = f"about {a_row / 2**20:.1f} MiB an image in {max(free, 0) / 2**30:.1f} GiB, half of what is available"
    if found is None:
        raise ConfigError(
            f"data.dataloader.batch_size is auto, but not even {MIN_BATCH} images fit ({why}). Set a smaller "
            "data.img_size or training.gradient_checkpointing=true, or choose a smaller model."
        )
    logger.info(
        "data.dataloader.batch_size is auto: %d images per step (%s; at most %d and 1/%d of the training rows). "
        "training.lr is not scaled with it.",
        *(found, why, MAX_BATCH, MIN_STEPS * n_devices),
    )
    return found


def set_batch_size(number: int, *holders: NATIXDataModule | BaseTrainer) -> None:
    """Replaces `auto` by a number of images per step."""
    for holder in holders:
        holder.cfg.data.dataloader.batch_size = number
        holder.settings.data.dataloader.batch_size = number


def grow(fits: Callable[[int], bool], cap: int) -> int | None:
    """The largest power of two from 2 up to `cap` before the first that does not fit; None if 2 does not fit."""
    found, batch = None, MIN_BATCH
    while batch <= max(cap, MIN_BATCH) and fits(batch):
        found, batch = batch, 2 * batch
    return found


class _Trial:
    """Training steps of a copy of the network on random images."""

    def __init__(self, trainer: BaseTrainer, datamodule: NATIXDataModule) -> None:
        self.settings = trainer.settings.training
        self.datamodule = datamodule
        self.lightning = build_lightning_trainer(
            self.settings, [], Path(), alone=True, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        self.device = self.lightning.strategy.root_device
        self.module = copy.deepcopy(trainer.module).to(self.device).train()
        self.optimizer = build_optimizer(self.module.model, self.settings.lr, self.settings.weight_decay)
        self.average = [p.detach().clone() for p in self._trained()] if self.settings.use_ema else []

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def loss(self, batch: int) -> Tensor:
        size = self.datamodule.settings.data.img_size
        pixels = torch.randint(256, (batch, 3, size, size), dtype=torch.uint8).to(self.device)
        labels = torch.arange(batch, device=self.device) % 2
        images, labels = self.datamodule.augment(pixels.float().div_(255), labels)
        with self.lightning.precision_plugin.forward_context():
            logits = self.module(self.datamodule.normalise(images))
            return F.cross_entropy(logits.float(), labels, label_smoothing=self.settings.label_smoothing)

    def step(self, batch: int) -> None:
        self.loss(batch).backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.optimizer.step()
        self.optimizer.zero_grad()

    def fits_gpu(self, batch: int) -> bool:
        """Whether a step leaves a tenth of the free memory."""
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        try:
            self.step(batch)
            self.step(batch)  # the first one makes AdamW's averages, at its end
        except torch.cuda.OutOfMemoryError:
            self.optimizer.zero_grad()
            return False
        return torch.cuda.max_memory_reserved(self.device) <= GPU_SHARE * free

    def state_bytes(self) -> int:
        """Bytes that training needs besides the weights, for any batch size."""
        return state_bytes(self.module, use_ema=self.settings.use_ema)

    def bytes_per_image(self) -> float:
        """Bytes that one more image adds to a step."""
        return bytes_per_image(self.loss, self.module, self.datamodule.settings.data.img_size)


def prepare_trainer(datamodule: NATIXDataModule, resume_from: Path | None = None) -> BaseTrainer:
    """A trainer with a new network for a data module, seeded by `training.seed`.

    If `data.dataloader.batch_size` is `auto`, both get the number of images that fits the device, or that of the run in
    `resume_from`.
    """
    settings = datamodule.settings
    is_auto = settings.data.dataloader.batch_size == "auto"
    if is_auto and resume_from:
        set_batch_size(OmegaConf.load(Run(resume_from).config_file).data.dataloader.batch_size, datamodule)
        is_auto = False
    L.seed_everything(settings.training.seed, workers=True, verbose=False)
    trainer = BaseTrainer(datamodule.cfg, build_model(settings.model, settings.data.img_size))
    if is_auto:
        datamodule.setup("fit")
        set_batch_size(find_batch_size(trainer, datamodule), datamodule, trainer)
    return trainer
