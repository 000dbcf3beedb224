"""A few steps of the real training loop, timed by stage; nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from rich.progress import Progress
from typing_extensions import override

from roadwork.data.datamodule import NATIXDataModule
from roadwork.profiling.stage_clock import StageClock
from roadwork.progress import new_progress
from roadwork.runs import atomic_path
from roadwork.training.speed import compile_network
from roadwork.training.trainers.base_trainer import BaseTrainer
from roadwork.training.trainers.lightning_trainer import build_lightning_trainer

# The first steps allocate memory, choose kernels and start workers; a compiled network compiles in them.
WARMUP_STEPS, WARMUP_STEPS_COMPILED = 3, 8
TRACED_STEPS = 2


@dataclass(frozen=True)
class TimedSteps:
    """What was measured, and on what.

    Attributes:
        seconds: for each step, the seconds of its stages.
        n_images: of each step's batch.
        n_warmup: steps before these, left out.
        batches_per_epoch: of the training split.
        workers: processes of the loader.
        device: torch's name of it, such as cpu or cuda:0.
        precision: Lightning's name of it.
    """

    seconds: list[dict[str, float]]
    n_images: list[int]
    n_warmup: int
    batches_per_epoch: int
    workers: int
    device: str
    precision: str


class _Steps(Callback):
    """Counts the images of each batch, traces the last ones where a file is named, and ends the fit."""

    def __init__(self, n_steps: int, trace: Path | None, progress: Progress) -> None:
        self.n_images: list[int] = []
        self._n_untraced = n_steps + 1 if trace else n_steps  # switching the trace on would count for a step
        self._n_all = self._n_untraced + (TRACED_STEPS if trace else 0)
        self._trace = trace
        self._tracer: torch.profiler.profile | None = None
        self._advance: Callable[[], None] = lambda: progress.advance(task)
        task = progress.add_task("Training steps", total=self._n_all)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.n_images.append(len(batch["label"]))
        self._advance()
        n_done = len(self.n_images)
        if self._trace is not None and n_done == self._n_untraced:
            self._tracer = torch.profiler.profile()
            self._tracer.start()
        if n_done == self._n_all:
            trainer.should_stop = True
            if self._tracer is not None and self._trace is not None:
                self._tracer.stop()
                self._tracer.export_chrome_trace(str(self._trace))


def time_steps(datamodule: NATIXDataModule, trainer: BaseTrainer, n_steps: int, trace: Path | None) -> TimedSteps:
    """Trains on `n_steps` batches after a few that are left out, as `BaseTrainer.fit` would begin.

    Nothing is validated or saved, and the log goes to a temporary folder. On an accelerator each stage is waited for
    before the next begins, so that its time is its own. An epoch with fewer batches is repeated.

    Args:
        datamodule: set up for a fit.
        trainer: its network's weights move.
        n_steps: batches, at least 1.
        trace: a file for a Chrome trace of two further steps.
    """
    training = trainer.settings.training
    n_warmup = WARMUP_STEPS_COMPILED if training.compile else WARMUP_STEPS
    is_on_accelerator = torch.accelerator.is_available() and training.accelerator != "cpu"
    clock = StageClock(torch.accelerator.synchronize if is_on_accelerator else lambda: None, label=trace is not None)
    with (
        TemporaryDirectory(prefix="roadwork-profile-") as name,
        new_progress() as progress,
        atomic_path(trace) if trace else nullcontext() as traced,
    ):
        steps = _Steps(n_warmup + n_steps, traced, progress)
        lightning_trainer = build_lightning_trainer(
            training,
            [*trainer.callbacks, LearningRateMonitor(logging_interval="step"), steps],
            Path(name),
            alone=True,
            max_epochs=max(training.epochs, n_warmup + n_steps + 1 + TRACED_STEPS),  # an epoch has a batch at least
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(name, name="", version="tensorboard"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            profiler=clock,
        )
        if training.compile:
            compile_network(trainer.module.model, lightning_trainer.strategy.root_device)
        try:
            lightning_trainer.fit(trainer.module, datamodule=datamodule)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
    measured = slice(n_warmup, n_warmup + n_steps)
    return TimedSteps(
        seconds=[dict(step) for step in clock.steps[measured]],
        n_images=steps.n_images[measured],
        n_warmup=n_warmup,
        batches_per_epoch=int(lightning_trainer.num_training_batches),
        workers=lightning_trainer.train_dataloader.num_workers,  # type: ignore[union-attr]  # there is one after a fit
        device=str(lightning_trainer.strategy.root_device),
        precision=str(lightning_trainer.precision),
    )
