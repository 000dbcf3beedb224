"""Saves a run every few minutes, and once more when it is asked to stop."""

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
from lightning.pytorch.utilities.types import STEP_OUTPUT
from typing_extensions import override

from roadwork.core.errors import RunStoppedError
from roadwork.training.distributed import largest_of_all

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption(Checkpoint):
    """Saves `last.ckpt` between two optimizer steps: every so often, and when SIGTERM or SIGINT asks to stop.

    The first signal lets the step end, saves, and raises RunStoppedError; after the last step of an epoch, validation
    ends first. A second one ends the process at once. Of several processes that train together any may be sent it:
    after the step all know, and stop together. As a Lightning `Checkpoint` it is called after all other callbacks, so
    that what it saves holds what they did with the step.

    Args:
        path: of `last.ckpt`.
        minutes: between two saves inside an epoch; 0 saves none there.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path = path
        self.seconds = 60 * minutes
        self.received: int | None = None
        self._saved_at = 0.0
        self._steps_seen = 0
        self._former: dict[int, Any] = {}

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._steps_seen = trainer.global_step
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._former = {number: signal.signal(number, self._note) for number in SIGNALS}

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        # While gradients accumulate, they are nowhere but in memory.
        has_stepped, self._steps_seen = trainer.global_step > self._steps_seen, trainer.global_step
        # What is saved after the last batch would be resumed behind the validation that belongs to it.
        if not has_stepped or batch_idx + 1 >= trainer.num_training_batches:
            return
        is_due = self.seconds > 0 and time.monotonic() - self._saved_at >= self.seconds
        is_due_anywhere, number = largest_of_all(trainer, is_due, self.received or 0)
        if is_due_anywhere or number:
            trainer.save_checkpoint(self.path)
            self._saved_at = time.monotonic()
        self._stop_if(number)

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved_at = time.monotonic()  # the epoch's own checkpoint was written just before
        if trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop_if(*largest_of_all(trainer, self.received or 0))

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Not in teardown, which comes after Lightning has put back the handlers that were there before its own.
        self._restore_handlers()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore_handlers()

    def _stop_if(self, number: int) -> None:
        if number:
            raise RunStoppedError(number, f"{signal.Signals(number).name} came: {self.path} is saved.")

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        logger.warning("%s: ends the step, saves, and stops. Again: stops at once.", signal.Signals(number).name)

    def _restore_handlers(self) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}
