"""Trains with every callback registered, and writes a run folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from omegaconf import DictConfig, OmegaConf
from torch import nn

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import ConfigError, MachineError
from roadwork.core.files import atomic_path
from roadwork.data.datamodule import NATIXDataModule
from roadwork.runs.lock import claimed
from roadwork.runs.run import LAST, Run
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.adalora_callback import AdaLoraCallback
from roadwork.training.callbacks.collapse_callback import CollapseCallback
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.callbacks.health_callback import HealthCallback
from roadwork.training.callbacks.interruption import Interruption
from roadwork.training.callbacks.learning_callback import LearningCallback
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.callbacks.metrics_log import LossCallback, MetricsLog
from roadwork.training.checkpoints import SafeCheckpointIO, find_newest
from roadwork.training.devices import (
    batch_norm_plugins,
    checkpoint_gradients,
    compile_network,
    describe_step,
    device_arguments,
)
from roadwork.training.distributed import Team, raise_if_others_ended
from roadwork.training.initialization import check_unseen, describe_start, find_left_out, load_start, name_start
from roadwork.training.linear_probe import data_for_head, probe_head
from roadwork.training.loggers import LoggerFacts, build_loggers, check_loggers
from roadwork.training.lora.apply import STEPS_BEFORE_FIT, apply_adapter
from roadwork.training.lora.targets import adapter_summary
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.resume import check_resumable

logger = logging.getLogger(__name__)

MONITOR = "val_select/mcc"


def build_lightning_trainer(
    training: TrainingSettings, callbacks: list[Callback], folder: Path, *, alone: bool = False, **limits: Any
) -> L.Trainer:
    """Lightning's Trainer under the training settings.

    Args:
        training: epochs, precision, clipping, accumulation, accelerator.
        callbacks: all that are to be called.
        folder: the root of what Lightning itself writes.
        alone: on one device, whatever `training.devices` is: for a trial of the first process.
        limits: further arguments of Lightning's Trainer: the logger, or the limits of a dry run.

    Raises:
        ConfigError: Lightning refuses the accelerator or the precision.
    """
    arguments: dict[str, Any] = {
        "max_epochs": training.epochs,
        "gradient_clip_val": training.clip_norm or None,
        "accumulate_grad_batches": training.accumulate,
        "precision": _precision(training.precision),
        "deterministic": training.deterministic,
        **device_arguments(training, alone=alone),
        "num_sanity_val_steps": 2,
        "plugins": [SafeCheckpointIO(), *batch_norm_plugins(training, alone=alone)],
        "enable_model_summary": False,
        "log_every_n_steps": 10,
    }
    try:
        return L.Trainer(callbacks=callbacks, default_root_dir=folder, **(arguments | limits))
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(
            f"Lightning does not take training.accelerator={training.accelerator!r} with "
            f"training.precision={training.precision!r} here: {error}"
        ) from error


def _precision(wanted: str) -> Any:
    if wanted != "auto":
        return wanted
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"


class BaseTrainer:
    """Trains a model on a data module and leaves a run's folder behind.

    Attributes:
        callbacks: those of the training itself: MCC always; EMA where `training.use_ema`; AdaLoRA's with that adapter.
        mcc_callback: the MCC callback.
        ema_callback: the EMA callback; where averaging is off there is no such attribute.
        module: the LightningModule around the model, adapter included.
        trainer: Lightning's Trainer, once `fit` has built it.
        run_folder: `outputs/<experiment>/<UTC time>/`, once `fit` has made it.
    """

    trainer: L.Trainer
    run_folder: Path

    def __init__(self, cfg: DictConfig, model: nn.Module) -> None:
        self.cfg = compose_config(cfg)
        self.cfg.training.start_from = name_start(self.cfg.training.start_from)
        self.settings = to_settings(self.cfg)
        training = self.settings.training
        check_loggers(self.settings.tracking)
        load_start(model, self.settings)
        if training.gradient_checkpointing:
            checkpoint_gradients(model)
        adapted = apply_adapter(model, training.adapter, rank=training.adapter_rank or 8, total_steps=STEPS_BEFORE_FIT)
        self.module = RoadworkClassifier(adapted, training)
        self.mcc_callback = MCCCallback()
        self.callbacks: list[Callback] = [self.mcc_callback]
        ema: EMACallback | None = None
        if training.use_ema:
            ema = self.ema_callback = EMACallback(adapted, decay=training.ema_decay, warmup=training.ema_warmup)
            self.callbacks.append(ema)
        if training.adapter == "adalora":
            self.callbacks.append(AdaLoraCallback(ema))  # after EMA: it prunes the average too

    def fit(
        self,
        datamodule: NATIXDataModule,
        resume_from: Path | None = None,
        wiring: Sequence[dict[str, Any]] = (),
    ) -> Path:
        """Trains, and writes the run's folder.

        Args:
            datamodule: gives `train` and `val_select`.
            resume_from: a run's folder to continue; its own configuration and splits must be these.
            wiring: the rows of the wiring table, where a dry run came before; they go into the manifest.

        Returns:
            The run's folder.

        Raises:
            RoadworkError: the data cannot be used, or the run cannot be continued.
        """
        L.seed_everything(self.settings.training.seed, workers=True, verbose=False)
        team = Team(self.settings.training)
        logger.info("The run %s.", adapter_summary(self.module.model))
        left_out = self.module.left_out = find_left_out(self.module.model, self.settings)
        if left_out is not None:
            n_bytes, source = left_out.n_bytes / 1e6, left_out.source
            logger.info("Checkpoints leave out %.1f MB of frozen weights, which %s has.", n_bytes, source)
        batches = datamodule
        with team.in_turn():
            datamodule.setup("fit")
            check_unseen(self.settings.training, datamodule.splits)
            if resume_from:
                check_resumable(
                    resume_from, self.cfg, datamodule.splits, datamodule.table.fingerprint(), n_processes=team.size
                )
            elif team.is_first:  # the others are sent its weights when they begin
                probe_head(self.module.model, datamodule)
            if self.settings.training.freeze_backbone:
                batches = data_for_head(self.module.model, datamodule)
        checkpoint: str | None
        begun = self._begin_folder(datamodule, resume_from, wiring, team.size) if team.is_first else None
        self.run_folder, checkpoint = team.share(begun)  # type: ignore[misc]  # the first one's, which is not None
        logger.info(
            describe_step(self.settings.training, self.settings.data.dataloader.batch_size, team.size),
        )
        self.trainer = build_lightning_trainer(
            self.settings.training, [*self.callbacks, *self._run_callbacks()], self.run_folder,
            logger=build_loggers(self.settings, self.run_folder),
            enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
        if self.settings.training.compile and batches is datamodule:
            compile_network(self.module.model, self.trainer.strategy.root_device)
        try:
            with claimed(self.run_folder) if self.trainer.is_global_zero else nullcontext():
                self.trainer.fit(self.module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            raise_if_others_ended(error)
            if "DataLoader worker" not in str(error):
                raise
            raise MachineError(
                f"A process that reads images has died ({str(error).splitlines()[0]}); the system ends one where "
                "memory is short. Go on with --resume, with fewer of them: data.dataloader.num_workers=1."
            ) from error
        except SystemExit as error:  # Lightning's answer to Ctrl-C, without a word
            logger.warning("The run in %s was interrupted; `--resume` goes on after its last epoch.", self.run_folder)
            raise KeyboardInterrupt from error
        if team.is_first:
            Run(self.run_folder).write_manifest(
                best_val_select_mcc=self.mcc_callback.best_mcc,
                epochs_trained=self.trainer.current_epoch,
            )
        return self.run_folder

    def _begin_folder(
        self, datamodule: NATIXDataModule, resume_from: Path | None, wiring: Sequence[dict[str, Any]], n_processes: int
    ) -> tuple[Path, str | None]:
        """The run's folder, made or taken up again, and the checkpoint to go on from."""
        checkpoint = str(find_newest(Run(resume_from).checkpoint_folder)) if resume_from else None
        folder = resume_from or Run.create(Path(self.settings.output_dir), self.settings.experiment).folder
        with atomic_path(Run(folder).config_file) as temporary:  # `roadwork resume` reads it
            OmegaConf.save(self.cfg, temporary, resolve=True)
        datamodule.splits.write(Run(folder).splits_file)
        Run(folder).write_manifest(  # before training, so that an interrupted run has one
            seeds={
                "training": self.settings.training.seed,
                "splits": datamodule.splits.seed,
                "sampler": self.settings.data.gps_sampling.random_seed,
            },
            data_fingerprint=datamodule.table.fingerprint(),
            processes=n_processes,
            **({} if resume_from else describe_start(self.settings.training)),
            **({"wiring": list(wiring)} if wiring else {}),
            epochs_trained=None,  # until it has ended by itself: `roadwork runs` tells by it
        )
        return folder, checkpoint

    def _run_callbacks(self) -> list[Callback]:
        folder = Run(self.run_folder).checkpoint_folder
        health = HealthCallback(self.settings.training, self.run_folder)
        callbacks: list[Callback] = [
            LossCallback(),
            health,
            LearningCallback(health),
            CollapseCallback(self.settings.training),
            MetricsLog(Run(self.run_folder).metrics_file),
            LoggerFacts(self.cfg, self.run_folder, self.mcc_callback),
            LearningRateMonitor(logging_interval="step"),
            ModelCheckpoint(folder, filename="best", monitor=MONITOR, mode="max", enable_version_counter=False),
            ModelCheckpoint(folder, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False),
            Interruption(folder / LAST, self.settings.training.checkpoint_minutes),
        ]
        if sys.stderr.isatty():
            callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
        if self.settings.training.patience:
            callbacks.append(EarlyStopping(MONITOR, mode="max", patience=self.settings.training.patience))
        return callbacks
