"""The mean training loss of an epoch, also of one that was interrupted."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override


class LossCallback(Callback):
    """Logs `train/loss`, the mean over the epoch's rows.

    Lightning's own means are not in its checkpoints: after a resume inside an epoch they are of the rest alone.
    """

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)  # of losses and of rows

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        if outputs is None:
            return
        loss, rows = outputs["cross_entropy"], len(outputs["logits"])  # type: ignore[index]  # a mapping
        weighted = torch.stack([loss.double() * rows, torch.full_like(loss, rows, dtype=torch.float64)])
        self._sums = self._sums.to(loss.device) + weighted

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        losses, rows = trainer.strategy.reduce(self._sums.to(pl_module.device), reduce_op="sum")
        if rows:
            pl_module.log("train/loss", (losses / rows).float(), prog_bar=True, sync_dist=True)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = state_dict["sums"]
