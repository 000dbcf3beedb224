"""`metrics.jsonl`: one line an epoch."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from roadwork.runs import atomic_path

logger = logging.getLogger(__name__)


class MetricsLog(Callback):
    """Appends each epoch's logged figures, the learning rate and the seconds since the start to a JSONL file.

    A run that is resumed has the lines that its checkpoint knows of; the others are of epochs that come again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = 0.0
        self._seconds_before = 0.0
        self._n_lines = 0

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if not trainer.is_global_zero or not self.path.is_file():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
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
        if trainer.progress_bar_callback is None:  # in a file, a line an epoch takes the bar's place
            logger.info(
                "Epoch %d of %d: val_select/mcc %.4f",
                trainer.current_epoch + 1,
                trainer.max_epochs,
                line["val_select/mcc"],
            )
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._n_lines += 1

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lines": self._n_lines, "seconds": self._seconds()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._n_lines, self._seconds_before = state_dict["lines"], state_dict["seconds"]

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self.started
