"""The dry run: trains and validates on a few real batches, and returns the wiring table."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from roadwork.data.datamodule import NATIXDataModule
from roadwork.preflight.recorder import (
    CallCounter,
    Observations,
    WireRow,
    WiringProbe,
    find_checkpoint,
    next_epoch_rows,
)
from roadwork.preflight.wiring import judge
from roadwork.training.devices import build_lightning_trainer
from roadwork.training.initialization import check_unseen
from roadwork.training.linear_probe import fit_patch_components
from roadwork.training.trainers.base_trainer import BaseTrainer

BATCHES = 2


def run_dry(datamodule: NATIXDataModule, trainer: BaseTrainer) -> list[WireRow]:
    """Runs two optimizer steps and two validation batches on real data; leaves no files behind.

    It runs a copy of the trainer, so `trainer` itself can start the fit afterwards; only the components of
    `model.patch_head=color` are fitted already, to the photos that the fit would take. The network is never compiled:
    the checks do not depend on training.compile, and compiling takes longer than they do.

    Returns:
        The wiring table.
    """
    datamodule.setup("fit")
    fit_patch_components(trainer.module.model, datamodule)
    trainer.find_omittable()
    trainer = copy.deepcopy(trainer)
    training = trainer.settings.training
    check_unseen(training, datamodule.splits)
    n_train = min(
        BATCHES * training.accumulate,
        math.ceil(len(datamodule.datasets["train"]) / datamodule.settings.data.dataloader.fixed_batch_size),
    )
    # An epoch with a single step is repeated: LoRA's A gets its first gradient after the first update of B.
    epochs = 1 if n_train > training.accumulate else BATCHES
    n_validation = min(
        BATCHES,
        math.ceil(len(datamodule.datasets["val_select"]) / datamodule.settings.data.dataloader.fixed_batch_size),
    )
    probe = WiringProbe(trainer.module.model)
    calls = {callback: CallCounter(callback, _hooks(callback)) for callback in trainer.callbacks}
    with TemporaryDirectory(prefix="roadwork-dry-run-") as name:
        folder = Path(name)
        lightning_trainer = build_lightning_trainer(
            training,
            [*trainer.callbacks, probe, ModelCheckpoint(folder)],
            folder,
            alone=True,
            max_epochs=epochs,
            check_val_every_n_epoch=epochs,
            limit_train_batches=n_train,
            limit_val_batches=n_validation,
            num_sanity_val_steps=0,
            logger=False,
            enable_progress_bar=False,
        )
        lightning_trainer.fit(trainer.module, datamodule=datamodule)
        path = find_checkpoint(folder)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True) if path else None
    loader = lightning_trainer.train_dataloader
    return judge(
        Observations(
            trainer,
            datamodule,
            probe,
            calls,
            {key: float(value) for key, value in lightning_trainer.callback_metrics.items()},
            next_epoch_rows(loader, epoch=epochs),
            checkpoint,
            n_train * epochs,
            n_validation,
        )
    )


def _hooks(callback: Callback) -> tuple[str, ...]:
    """The hooks that a callback implements and whose number of calls the dry run knows."""
    known = ("on_train_batch_end", "on_validation_batch_end", "on_validation_start", "on_validation_end")
    return tuple(name for name in known if getattr(type(callback), name) is not getattr(Callback, name))
