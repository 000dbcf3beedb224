"""Training that learns nothing: a learning rate of zero, gradients of zero, weights that stay where they are."""

from __future__ import annotations

import logging
import math
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from roadwork.core.errors import WiringError
from roadwork.data.samplers.summary import Repeats
from roadwork.training.callbacks.health_callback import HealthCallback

logger = logging.getLogger(__name__)

# Weights whose norms all change by less over an epoch have not moved: float32 tells 1 from 1 + 1e-7.
STILL = 1e-12


class LearningCallback(Callback):
    """Warns of steps that cannot learn, and stops a run in which a whole epoch could not.

    It looks at steps that are done, so not at those that `health` leaves out. A learning rate of zero in the run's
    first and last step is where a schedule may well begin and end. Once, it says how often each photo will be seen.

    Args:
        health: knows each step's gradient norm; register it before this one.
    """

    def __init__(self, health: HealthCallback) -> None:
        self.health = health
        self._counts = _no_counts()
        self._norms = torch.empty(0)
        self._n_steps = math.inf

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._n_steps = trainer.estimated_stepping_batches  # Lightning counts anew whenever it is asked
        datamodule = trainer.datamodule  # type: ignore[attr-defined]  # Lightning's Trainer lacks it
        n_rows = len(datamodule.datasets["train"])
        repeats = Repeats.of(datamodule.train_sampler, n_rows, trainer.max_epochs or 1)
        logger.log(logging.WARNING if repeats.are_too_many else logging.INFO, "%s", repeats)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._counts = _no_counts()
        self._norms = _norms_of_trained(pl_module)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        if self.health.is_skipped:
            return
        step = trainer.global_step
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        counts = self._counts
        counts["steps"] += 1
        if any(rates):
            counts["with_lr"] += 1
        elif 0 < step < self._n_steps - 1:
            counts["zero_lr"] += 1
            if counts["zero_lr"] == 1:
                logger.warning("Step %d of %.0f has a learning rate of 0.", step + 1, self._n_steps)
        if self.health.gradient_norm == 0:
            counts["zero_gradients"] += 1
            if counts["zero_gradients"] == 1:
                logger.warning("In step %d every gradient is 0.", step + 1)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        steps, zero_lr, zero_gradients = (self._counts[name] for name in ("steps", "zero_lr", "zero_gradients"))
        if steps == 0:
            return
        epoch = trainer.current_epoch + 1
        if zero_gradients == steps:
            raise WiringError(
                f"Every gradient was 0 in all {steps} steps of epoch {epoch}: nothing can be learned. The loss does "
                "not depend on what is trained; look at the network (dead units), training.loss, and what is frozen."
            )
        if zero_lr and not self._counts["with_lr"]:
            raise WiringError(
                f"The learning rate was 0 in all {steps} steps of epoch {epoch}: nothing can be learned. Mend the "
                "schedule that configure_optimizers returns."
            )
        if len(self._norms) and (self._norms - _norms_of_trained(pl_module)).abs().max() < STILL:
            raise WiringError(
                f"No weight moved in the {steps} steps of epoch {epoch}, though {steps - zero_gradients} had "
                f"gradients: nothing can be learned. The optimizer does not have the network's weights, or training.lr "
                f"({self.health.training.lr:g}) is too small for their precision: raise it."
            )
        if zero_lr or zero_gradients:
            logger.warning(
                "Epoch %d: of %d steps, %d had a learning rate of 0 and %d had gradients of 0 alone.",
                epoch, steps, zero_lr, zero_gradients,
            )  # fmt: skip

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"counts": dict(self._counts), "norms": self._norms}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._counts, self._norms = dict(state_dict["counts"]), state_dict["norms"].cpu()


def _no_counts() -> dict[str, int]:
    return {"steps": 0, "with_lr": 0, "zero_lr": 0, "zero_gradients": 0}


@torch.no_grad()
def _norms_of_trained(pl_module: L.LightningModule) -> Tensor:
    """(P,) float64 norms of the trained parameters: where none has changed, none has moved. A copy would cost more."""
    trained = [p for p in pl_module.parameters() if p.requires_grad]
    return torch.stack([torch.linalg.vector_norm(p, dtype=torch.float64) for p in trained]).cpu()
