"""Records a few training and validation batches for the wiring table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from typing_extensions import override

from roadwork.data.datamodule import NATIXDataModule
from roadwork.training.trainers.base_trainer import BaseTrainer

Weights = dict[str, Tensor]


@dataclass
class StageRecord:
    """The batches of one stage, as the network received them."""

    rows: list[Tensor] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    criteria: list[float] = field(default_factory=list)
    """The losses without the adapter's regularization term."""

    def add(self, batch: dict[str, Any], outputs: Any, seen: Tensor) -> None:
        self.rows.append(batch["index"].cpu())
        self.images.append(seen)
        self.labels.append(batch["label"].cpu())
        self.logits.append(outputs["logits"].detach().float().cpu())
        self.losses.append(float(outputs["loss"]))
        self.criteria.append(float(outputs.get("criterion", outputs["loss"])))


class WiringProbe(Callback):
    """Records the network's inputs with a forward hook, and copies its weights at each stage.

    Attributes:
        train, validation: the batches that the network received.
        augmented: the images and labels that the augmentation returned for each training batch; None if not called.
        weights_after_step: the weights and buffers before training, then after each optimizer step.
        stepped: the parameters that the optimizer itself changed, before any callback did.
        weights_in_validation, weights_after_validation: the weights and buffers at that time.
        gradients: the gradients of each parameter, by its name.
        learning_rates: one per optimizer step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.train = StageRecord()
        self.validation = StageRecord()
        self.augmented: list[tuple[Tensor, Tensor] | None] = []
        self.weights_after_step: list[Weights] = [copy_weights(model)]
        self.stepped: set[str] = set()
        self.weights_in_validation: Weights = {}
        self.weights_after_validation: Weights = {}
        self.gradients: dict[str, GradientSeen] = {}
        self.learning_rates: list[float] = []
        self.sampler: object = None
        self._seen = torch.empty(0)
        self._returned: tuple[Tensor, Tensor] | None = None
        self._steps = 0
        self._hooks = [model.register_forward_pre_hook(self._see_images, with_kwargs=True)]

    def _see_images(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module
        self._seen = (kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]).detach().float().cpu()

    def _see_augmented(self, module: nn.Module, args: Any, returned: tuple[Tensor, Tensor]) -> None:
        del module, args
        images, labels = returned
        self._returned = images.detach().float().cpu(), labels.detach().cpu()

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        augmentation = trainer.datamodule.train_augmentation  # type: ignore[attr-defined]  # Lightning's Trainer lacks it
        self._hooks.append(augmentation.register_forward_hook(self._see_augmented))
        self._hooks += [optimizer.register_step_post_hook(self._see_step) for optimizer in trainer.optimizers]

    def _see_step(self, *_: Any) -> None:
        before = self.weights_after_step[-1]
        self.stepped |= {n for n, p in self.model.named_parameters() if not torch.equal(before[n], p.detach().cpu())}

    @override
    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.learning_rates.append(optimizer.param_groups[0]["lr"])
        for name, parameter in self.model.named_parameters():
            self.gradients.setdefault(name, GradientSeen()).add(parameter.grad)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.train.add(batch, outputs, self._seen)
        self.augmented.append(self._returned)
        self._returned = None
        self.sampler = trainer.train_dataloader.sampler if trainer.train_dataloader is not None else None
        if trainer.global_step > self._steps:
            self._steps = trainer.global_step
            self.weights_after_step.append(copy_weights(self.model))

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.validation.add(batch, outputs, self._seen)
        self.weights_in_validation = copy_weights(self.model)

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.weights_after_validation = copy_weights(self.model)
        for hook in self._hooks:
            hook.remove()


@dataclass
class GradientSeen:
    """Whether one parameter received a gradient, and whether it was always finite and ever nonzero."""

    came: bool = False
    finite: bool = True
    nonzero: bool = False

    def add(self, gradient: Tensor | None) -> None:
        if gradient is not None:
            self.came = True
            self.finite &= bool(torch.isfinite(gradient).all())
            self.nonzero |= bool((gradient != 0).any())


class CallCounter:
    """Counts the calls of an object's methods without changing what they do."""

    def __init__(self, target: object, names: tuple[str, ...]) -> None:
        self.calls: Counter[str] = Counter(dict.fromkeys(names, 0))
        for name in names:
            setattr(target, name, self._counted(name, getattr(target, name)))

    def _counted(self, name: str, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return method(*args, **kwargs)

        return call


def copy_weights(model: nn.Module) -> Weights:
    """A CPU copy of a model's parameters and buffers."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def next_epoch_rows(loader: Any, epoch: int) -> np.ndarray:
    """The dataset rows that a loader's sampler draws in an epoch, in order."""
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)
    return np.fromiter((row for batch in loader.batch_sampler for row in batch), dtype=np.int64)


def find_checkpoint(folder: Path) -> Path | None:
    return next(iter(sorted(folder.rglob("*.ckpt"))), None)


@dataclass(frozen=True)
class WireRow:
    """A row of the wiring table.

    Attributes:
        wire: its name.
        observed: what happened in the dry run.
        works: whether the check passed.
        fix: what to do if it failed.
    """

    wire: str
    observed: str
    works: bool
    fix: str


@dataclass
class Observations:
    """Everything that a dry run recorded."""

    trainer: BaseTrainer
    datamodule: NATIXDataModule
    probe: WiringProbe
    calls: dict[Callback, CallCounter]
    logged: dict[str, float]
    next_epoch: np.ndarray
    checkpoint: dict[str, Any] | None
    n_train: int
    n_validation: int
