"""Base classes of the callbacks: a checked order, batches of an epoch, and a hook after each optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from roadwork.core.errors import WiringError


@dataclass
class StepState:
    """The latest optimizer step of a fit; `RoadworkClassifier.step_state` holds it.

    TrainingMonitorCallback writes it before the optimizer steps. Other callbacks read it afterwards.

    Attributes:
        gradient_norm: before clipping.
        is_skipped: whether the step was skipped because its loss or gradients were not finite.
    """

    gradient_norm: float = math.nan
    is_skipped: bool = False


class OrderedCallback(Callback):
    """A callback that checks its place among the callbacks of a Trainer.

    Attributes:
        runs_after: callbacks of these classes must be registered before this one.

    Raises:
        WiringError: when a Trainer starts with one of them registered later.
    """

    runs_after: ClassVar[tuple[type[Callback], ...]] = ()

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it outside __init__
        for later in callbacks[callbacks.index(self) + 1 :]:
            if isinstance(later, self.runs_after):
                raise WiringError(
                    f"{type(self).__name__} is registered before {type(later).__name__}; register it after."
                )


class EpochCallback(OrderedCallback):
    """Collects what the steps of an epoch return; batches that return None (rows of another rank) are skipped."""

    _n_processes = 1

    def add_train_batch(self, outputs: Any, batch: Any) -> None:
        """Adds what `training_step` returned for a batch."""

    def add_validation_batch(self, outputs: Any, batch: Any) -> None:
        """Adds what `validation_step` returned for a batch."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._n_processes = trainer.world_size

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if outputs is not None:
            self.add_train_batch(outputs, batch)

    @override
    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: STEP_OUTPUT,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if outputs is not None:
            self.add_validation_batch(outputs, batch)


class OptimizerStepCallback(OrderedCallback):
    """Calls :meth:`on_optimizer_step_end` after each optimizer step; Lightning has no such hook.

    While gradients accumulate, a batch ends without a step.
    """

    _steps_seen = 0

    def on_optimizer_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, batch_idx: int) -> None:
        """Called after the optimizer has stepped; `batch_idx` is the step's last batch."""

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._steps_seen = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step > self._steps_seen:
            self._steps_seen = trainer.global_step
            self.on_optimizer_step_end(trainer, pl_module, batch_idx)
