"""The contenders of `benchmarks.step`: our trainer, a bare loop and Hugging Face's Trainer, on the same steps."""

from __future__ import annotations

import copy
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from typing_extensions import override

from benchmarks.step_data import TensorDataModule
from benchmarks.step_work import Recipe, Work, now, optimizer_and_schedule, ready_network
from roadwork.training.trainers.base_trainer import BaseTrainer


@dataclass(frozen=True)
class Done:
    """The result of a contender: timed images, seconds and the trained network."""

    images: int
    seconds: float
    network: nn.Module


class StepClock(Callback):
    """Measures the seconds from the end of an epoch's last warm-up step to the end of its last step."""

    def __init__(self, warmup: int, epoch: int = 0) -> None:
        self.warmup = warmup
        self.epoch = epoch
        self.started = self.ended = 0.0

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch and self.warmup == 0:
            self.started = now()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch:
            if batch_idx + 1 == self.warmup:
                self.started = now()
            if batch_idx + 1 == trainer.num_training_batches:
                self.ended = now()

    @property
    def seconds(self) -> float:
        return self.ended - self.started


def train_ours(work: Work) -> Done:
    """Trains with `BaseTrainer.fit` as `roadwork train` does, with EMA, MCC, logging and progress bar."""
    torch.compiler.reset()  # earlier compilations count towards the recompile limit
    with TemporaryDirectory() as folder:
        cfg = copy.deepcopy(work.cfg)
        cfg.output_dir = folder
        trainer = BaseTrainer(cfg, work.network())
        clock = StepClock(work.warmup)
        trainer.callbacks.append(clock)
        trainer.fit(TensorDataModule(cfg, work))
    return Done(work.steps * work.batch, clock.seconds, trainer.module.model)


def train_bare(work: Work) -> Done:
    """Trains with a plain loop without EMA, MCC, logging or checkpoints."""
    network = ready_network(work)
    recipe = Recipe(work, network)
    optimizer, schedule = optimizer_and_schedule(work, network)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    clip_norm = work.settings.training.clip_norm
    started = now()
    for step in range(work.total_steps):
        if step == work.warmup:
            started = now()
        rows = work.order[step * work.batch : (step + 1) * work.batch]
        optimizer.zero_grad()
        loss = recipe.loss(work.images[rows].to(recipe.device), work.labels[rows].to(recipe.device), step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, clip_norm)
        optimizer.step()
        schedule.step()
    return Done(work.steps * work.batch, now() - started, network)


def train_by_trainer(work: Work) -> Done:
    """Trains with Hugging Face's Trainer and its default callbacks, without evaluation or checkpoints."""
    network = ready_network(work)
    clock = TrainerClock(work.warmup)
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=work.total_steps,
            per_device_train_batch_size=work.batch,
            max_grad_norm=work.settings.training.clip_norm,
            train_sampling_strategy="sequential",
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=not sys.stderr.isatty(),
        )
        trainer = AugmentingTrainer(
            network,
            arguments,
            train_dataset=Rows(work),
            optimizers=optimizer_and_schedule(work, network),
            callbacks=[clock],
        )
        trainer.recipe = Recipe(work, network)
        with redirect_stdout(StringIO()):  # it prints a dict when it ends
            trainer.train()
    return Done(work.steps * work.batch, clock.ended - clock.started, network)


class Rows(Dataset[dict[str, Tensor]]):
    """The images of a `Work` in the order of its epoch."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __len__(self) -> int:
        return len(self.work.order)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self.work.order[index]
        return {"pixels": self.work.images[row], "labels": self.work.labels[row]}


class AugmentingTrainer(Trainer):
    """A Trainer that augments on the device, inside `compute_loss`."""

    recipe: Recipe

    @override
    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        return self.recipe.loss(inputs["pixels"], inputs["labels"], self.state.global_step)


class TrainerClock(TrainerCallback):
    """Measures the same interval as `StepClock`."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.started = self.ended = 0.0

    @override
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = now()

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup:
            self.started = now()
        self.ended = now() if state.global_step == state.max_steps else 0.0
