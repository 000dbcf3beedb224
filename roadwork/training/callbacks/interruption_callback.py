"""Saves a run every few minutes, and when a signal asks it to stop."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from typing_extensions import override

from roadwork.core.errors import RunStoppedError
from roadwork.training.callbacks.base import OptimizerStepCallback
from roadwork.training.distributed import reduce_max

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class InterruptionCallback(OptimizerStepCallback, Checkpoint):
    """Saves `last.ckpt` between two optimizer steps: every few minutes, and when SIGTERM or SIGINT asks to stop.

    The first signal lets the step finish, saves, and raises RunStoppedError; after the last step of an epoch,
    validation finishes first. A second signal ends the process at once. With several processes any of them may get the
    signal: all learn of it after the step, and stop together.

    It is a Lightning `Checkpoint`, which Lightning calls after all other callbacks, so the file holds their changes.

    Example:
        >>> interruption = InterruptionCallback(Path("outputs/demo/1/checkpoints/last.ckpt"), minutes=10)
        >>> trainer = L.Trainer(callbacks=[interruption], accelerator="cpu", logger=False)

    Args:
        path: of `last.ckpt`.
        minutes: between two saves inside an epoch; 0 saves none there.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.received: int | None = None
        self._saved_at = 0.0
        self._previous_handlers: dict[int, Any] = {}

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._saved_at = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    @override
    def on_optimizer_step_end(self, trainer: L.Trainer, pl_module: L.LightningModule, batch_idx: int) -> None:
        # A checkpoint after the epoch's last batch would be resumed behind the validation that belongs to it.
        if batch_idx + 1 >= trainer.num_training_batches:
            return
        is_due = self.seconds > 0 and time.monotonic() - self._saved_at >= self.seconds
        is_due_anywhere, number = reduce_max(trainer, is_due, self.received or 0)
        if is_due_anywhere or number:
            trainer.save_checkpoint(self.path)
            self._saved_at = time.monotonic()
        self._stop_if(number)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()  # the epoch's own checkpoint was written just before
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop_if(*reduce_max(trainer, self.received or 0))

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in teardown: Lightning has restored the handlers before its own by then.
        self._restore_handlers()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _stop_if(self, number: int) -> None:
        if number:
            raise RunStoppedError(number, f"Received {signal.Signals(number).name}; {self.path} is saved.")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        name = signal.Signals(number).name
        logger.warning("Received %s: finishing this step, saving, exiting. Send it again to exit now.", name)

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
