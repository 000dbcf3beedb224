"""The workload of `benchmarks.step`, and the training recipe of the bare loop and Trainer."""

from __future__ import annotations

import copy
import time
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from roadwork.config import load_config, to_settings
from roadwork.core.rng import repeatable_draws
from roadwork.data.augmentation.build import build_train_augmentation
from roadwork.data.samplers.build import UniformSampler
from roadwork.models.build import build_model
from roadwork.models.processor import image_statistics
from roadwork.settings import Settings
from roadwork.training.optim import build_optimizer, use_fused, warmup_cosine

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "experiment" / "demo.yaml"
_VIT_S = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
NETWORKS = {
    "resnet": ("the demo's ResNet", []),
    "vit-s": (
        "ViT-S/16",
        ["model=vit_base", "model.pretrained=false", *(f"model.config.{key}={value}" for key, value in _VIT_S.items())],
    ),
}


class Work:
    """The workload that all contenders share: images in RAM, their order, the network and the settings.

    Args:
        cfg: the demo's configuration with a network, batch size and image size.
        steps: number of timed steps.
        warmup: number of untimed steps before them, for memory allocation and kernel selection.
    """

    def __init__(self, cfg: DictConfig, steps: int, warmup: int) -> None:
        self.cfg = cfg
        self.steps = steps
        self.warmup = warmup
        generator = torch.Generator().manual_seed(0)
        size, rows = self.settings.data.img_size, self.batch * (steps + warmup)
        self.images = torch.randint(256, (rows, 3, size, size), dtype=torch.uint8, generator=generator)
        self.labels = torch.randint(2, (rows,), generator=generator)

    @property
    def settings(self) -> Settings:
        return to_settings(self.cfg)

    @property
    def batch(self) -> int:
        return int(self.cfg.data.dataloader.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps + self.warmup

    @cached_property
    def _network(self) -> nn.Module:
        torch.manual_seed(0)
        return build_model(self.settings.model, self.settings.data.img_size)

    def network(self) -> nn.Module:
        """Returns a new copy of the untrained network."""
        return copy.deepcopy(self._network)

    @cached_property
    def order(self) -> list[int]:
        """The rows of the epoch in the order of our sampler."""
        sampling = self.settings.data.gps_sampling
        return list(UniformSampler(range(len(self.labels)), 1, 0, shuffle=True, seed=sampling.random_seed))  # type: ignore[arg-type]


def load_work(network: str, steps: int, warmup: int, *overrides: str) -> Work:
    """Returns the workload of one of `NETWORKS` with the demo's settings; `overrides` are `key=value`."""
    keys = [*NETWORKS[network][1], "data.gps_sampling.enabled=false", "training.epochs=1", *overrides]
    return Work(load_config(CONFIG, keys), steps, warmup)


def now() -> float:
    """Returns the time in seconds after the device has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Recipe:
    """The augmentation, precision and loss of our step, for the bare loop and Trainer."""

    def __init__(self, work: Work, network: nn.Module) -> None:
        self.work = work
        self.settings = work.settings
        self.network = network
        self.device = next(network.parameters()).device
        data = self.settings.data
        self.augmentation = build_train_augmentation(data.augmentation.train, data.img_size).to(self.device)
        statistics = image_statistics(self.settings.model)
        self.mean = torch.tensor(statistics.mean, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(statistics.std, device=self.device).view(1, 3, 1, 1)

    def loss(self, pixels: Tensor, labels: Tensor, step: int) -> Tensor:
        """Returns the loss of a batch of uint8 images on the device; `step` counts from 0."""
        training = self.settings.training
        with torch.no_grad(), repeatable_draws(self.device, training.seed, 0, step * self.work.batch, 0):
            images, soft_labels = self.augmentation(pixels.float().div_(255), labels)
            images = ((images - self.mean) / self.std).contiguous(memory_format=memory_format(self.settings))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16(self.settings)):
            logits = self.network(pixel_values=images).logits
        return F.cross_entropy(logits.float(), soft_labels, label_smoothing=training.label_smoothing)


def memory_format(settings: Settings) -> torch.memory_format:
    return torch.channels_last if settings.training.channels_last else torch.contiguous_format


def is_bf16(settings: Settings) -> bool:
    wanted = settings.training.precision
    return wanted == "bf16-mixed" or (wanted == "auto" and torch.cuda.is_available())


def ready_network(work: Work) -> nn.Module:
    """Returns the untrained network in training mode, on the device and in the memory format of our step."""
    network = work.network().to("cuda" if torch.cuda.is_available() else "cpu").train()
    return network.to(memory_format=memory_format(work.settings))  # type: ignore[call-overload, no-any-return]


def optimizer_and_schedule(work: Work, network: nn.Module) -> tuple[AdamW, LambdaLR]:
    """Returns our optimizer and learning rate schedule."""
    training = work.settings.training
    fused = use_fused(training.fused_optimizer, network.parameters(), "bf16-mixed" if is_bf16(work.settings) else "")
    optimizer = build_optimizer(network, training.lr, training.weight_decay, fused=fused)
    return optimizer, warmup_cosine(optimizer, work.total_steps, training.warmup)
