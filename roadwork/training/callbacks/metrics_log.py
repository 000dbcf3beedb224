"""`metrics.jsonl`: one line an epoch."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

logger = logging.getLogger(__name__)


class MetricsLog(Callback):
    """Appends each epoch's logged figures, the learning rate and the seconds since the start to a JSONL file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = 0.0

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(time.monotonic() - self.started, 2),
        }
        line |= {"lr": trainer.optimizers[0].param_groups[0]["lr"]}
        line |= {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("lr-")}
        if trainer.progress_bar_callback is None:  # in a file, a line an epoch takes the bar's place
            logger.info(
                "Epoch %d of %d: val_select/mcc %.4f",
                trainer.current_epoch + 1,
                trainer.max_epochs,
                line["val_select/mcc"],
            )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
