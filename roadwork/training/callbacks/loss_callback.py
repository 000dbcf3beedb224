"""The mean losses of an epoch, also of one that was interrupted, over all devices."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from typing_extensions import override

from roadwork.training.team import is_first_process, sum_of_all


class LossCallback(Callback):
    """Logs `train/loss` and `val_select/loss`, the means over an epoch's rows.

    Lightning's own means are not in its checkpoints: after a resume inside an epoch they are of the rest alone. And
    they hang where one device has no batch to log.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)  # of losses and of rows
        self._val_select = torch.zeros(2, dtype=torch.float64)
        self._n_processes = 1

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._n_processes = trainer.world_size

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if outputs is None:
            return
        loss = outputs["criterion"]  # type: ignore[index]  # a mapping
        # A step whose loss is not finite is left out, and out of the mean too.
        weighted = _weighted(loss, outputs).where(torch.isfinite(loss), 0.0)
        self._sums = self._sums.to(loss.device) + weighted

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _log_mean("train/loss", self._sums, trainer, pl_module)

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val_select = torch.zeros(2, dtype=torch.float64)

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
            weighted = _weighted(outputs["loss"], outputs)  # type: ignore[index]  # a mapping
            self._val_select = self._val_select.to(weighted.device) + weighted

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _log_mean("val_select/loss", self._val_select, trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"sums": sum_of_all(self._sums, self._n_processes)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = state_dict["sums"] * is_first_process()  # what all had; the sum over all is to be that again


def _weighted(loss: Tensor, outputs: Any) -> Tensor:
    """(2,) float64: the loss times the batch's rows, and the rows."""
    rows = torch.full_like(loss, len(outputs["logits"]), dtype=torch.float64)
    return torch.stack([loss.double() * rows, rows])


def _log_mean(name: str, sums: Tensor, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    losses, rows = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum")
    if rows:
        # Equal on all devices already; sync_dist tells Lightning so, which else warns.
        pl_module.log(name, (losses / rows).float(), prog_bar=name == "train/loss", sync_dist=True)
