"""Logs mean losses per epoch, and writes metrics.jsonl."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor
from typing_extensions import override

from roadwork.core.files import atomic_path
from roadwork.core.progress import ProgressLine
from roadwork.training.callbacks.base import EpochCallback
from roadwork.training.distributed import is_rank_zero, reduce_sum

logger = logging.getLogger(__name__)


class LossCallback(EpochCallback):
    """Logs `train/loss` and `val_select/loss`, the means over an epoch's rows.

    Lightning's own means are not in its checkpoints, so after a resume inside an epoch they would miss its start.
    They also hang if one device has no batch to log.

    Example:
        >>> trainer = L.Trainer(callbacks=[LossCallback()], accelerator="cpu", logger=False)
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)  # of losses and of rows
        self._val_select = torch.zeros(2, dtype=torch.float64)

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    @override
    def add_train_batch(self, outputs: Any, batch: Any) -> None:
        loss = outputs["criterion"]
        # A non-finite step is skipped, so the mean skips it too.
        weighted = _weighted(loss, outputs).where(torch.isfinite(loss), 0.0)
        self._sums = self._sums.to(loss.device) + weighted

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _log_mean("train/loss", self._sums, trainer, pl_module)

    @override
    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._val_select = torch.zeros(2, dtype=torch.float64)

    @override
    def add_validation_batch(self, outputs: Any, batch: Any) -> None:
        weighted = _weighted(outputs["loss"], outputs)
        self._val_select = self._val_select.to(weighted.device) + weighted

    @override
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        _log_mean("val_select/loss", self._val_select, trainer, pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"sums": reduce_sum(self._sums, self._n_processes)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = state_dict["sums"] * is_rank_zero()  # the sum over ranks; only rank 0 keeps it


def _weighted(loss: Tensor, outputs: Any) -> Tensor:
    """(2,) float64: the loss times the batch's rows, and the rows."""
    rows = torch.full_like(loss, len(outputs["logits"]), dtype=torch.float64)
    return torch.stack([loss.double() * rows, rows])


def _log_mean(name: str, sums: Tensor, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
    losses, rows = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum")
    if rows:
        # Equal on all devices already; without sync_dist Lightning warns.
        pl_module.log(name, (losses / rows).float(), prog_bar=name == "train/loss", sync_dist=True)


class MetricsLogCallback(Callback):
    """Appends each epoch's metrics, the learning rate and the seconds since the start to a JSONL file.

    A resumed run keeps the lines that its checkpoint knows; later ones belong to epochs that are trained again.

    Without a progress bar, it also logs the step every 30 s, and the MCC after each epoch.

    Example:
        >>> trainer = L.Trainer(callbacks=[MetricsLogCallback(Path("metrics.jsonl"))], accelerator="cpu", logger=False)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = 0.0
        self._seconds_before = 0.0
        self._n_lines: int | None = None
        self._progress = ProgressLine()

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._progress = ProgressLine()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and trainer.progress_bar_callback is None:
            epoch = f"Epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, batch"
            self._progress.log(epoch, batch_idx + 1, trainer.num_training_batches)

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if not trainer.is_global_zero or not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        if self._n_lines is None:  # the checkpoint is of version 0.1, whose callback had another name
            self._n_lines = len(lines)
        if len(lines) > self._n_lines:
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(lines[: self._n_lines]), encoding="utf-8")

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(self._seconds(), 2),
        }
        line |= {"lr": trainer.optimizers[0].param_groups[0]["lr"]}
        line |= {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("lr-")}
        finite = {name: value if math.isfinite(value) else None for name, value in line.items()}  # JSON has no NaN
        if trainer.progress_bar_callback is None:  # not a terminal: a line per epoch replaces the bar
            logger.info(
                "Epoch %d of %d: val_select/mcc %.4f",
                trainer.current_epoch + 1,
                trainer.max_epochs,
                line["val_select/mcc"],
            )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._n_lines = (self._n_lines or 0) + 1

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._n_lines or 0, "seconds": self._seconds()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._n_lines, self._seconds_before = state_dict["lines"], state_dict["seconds"]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self.started
