"""Trains a network with every callback registered, and writes the run's folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from omegaconf import DictConfig, OmegaConf
from torch import nn

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import MachineError
from roadwork.core.files import atomic_path
from roadwork.data.datamodule import NATIXDataModule
from roadwork.runs.lock import run_lock
from roadwork.runs.run import LAST, Run
from roadwork.training.callbacks.adalora_callback import AdaLoraCallback
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.callbacks.interruption_callback import InterruptionCallback
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.callbacks.metrics_callbacks import LossCallback, MetricsLogCallback
from roadwork.training.callbacks.training_monitor import TrainingMonitorCallback
from roadwork.training.checkpoints import find_newest
from roadwork.training.devices import (
    build_lightning_trainer,
    checkpoint_gradients,
    compile_network,
    describe_step,
)
from roadwork.training.distributed import ProcessGroup, raise_if_peer_failed
from roadwork.training.initialization import check_unseen, describe_start, find_omittable, load_start, resolve_start
from roadwork.training.linear_probe import data_for_head, fit_patch_components, probe_head
from roadwork.training.loggers import RunMetadataCallback, build_loggers, check_loggers
from roadwork.training.lora.apply import adapt_network
from roadwork.training.lora.targets import adapter_summary
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.resume import check_resumable

logger = logging.getLogger(__name__)

MONITOR = "val_select/mcc"


class BaseTrainer:
    """Trains a model on a data module and writes a run's folder.

    Attributes:
        callbacks: MCC always; EMA if `training.use_ema`; AdaLoRA's with that adapter. `fit` adds the others.
        mcc_callback: the MCC callback.
        ema_callback: the EMA callback; without averaging there is no such attribute.
        module: the LightningModule around the model, adapter included.
        trainer: Lightning's Trainer, once `fit` has built it.
        run_folder: `outputs/<experiment>/<UTC time>/`, once `fit` has made it.
    """

    trainer: L.Trainer
    run_folder: Path

    def __init__(self, cfg: DictConfig, model: nn.Module) -> None:
        self.cfg = compose_config(cfg)
        self.cfg.training.start_from = resolve_start(self.cfg.training.start_from)
        self.settings = to_settings(self.cfg)
        training = self.settings.training
        check_loggers(self.settings.tracking)
        load_start(model, self.settings)
        if training.gradient_checkpointing:
            checkpoint_gradients(model)
        adapted = adapt_network(model, training)
        self.module = RoadworkClassifier(adapted, training)
        self.mcc_callback = MCCCallback()
        self.callbacks: list[Callback] = [self.mcc_callback]
        ema: EMACallback | None = None
        if training.use_ema:
            ema = self.ema_callback = EMACallback(adapted, decay=training.ema_decay, warmup=training.ema_warmup)
            self.callbacks.append(ema)
        if training.adapter == "adalora":
            self.callbacks.append(AdaLoraCallback(ema))

    def fit(
        self,
        datamodule: NATIXDataModule,
        resume_from: Path | None = None,
        wiring: Sequence[dict[str, Any]] = (),
        group: ProcessGroup | None = None,
    ) -> Path:
        """Trains, and writes the run's folder.

        Args:
            datamodule: gives `train` and `val_select`.
            resume_from: the folder of a run to continue, with the same configuration and splits.
            wiring: the rows of a dry run's wiring table, for the manifest.
            group: the processes that train together; null: from the settings.

        Returns:
            The run's folder.

        Raises:
            RoadworkError: the data cannot be used, or the run cannot be continued.
        """
        training = self.settings.training
        L.seed_everything(training.seed, workers=True, verbose=False)
        group = group or ProcessGroup(training)
        logger.info("The run %s.", adapter_summary(self.module.model))
        self.find_omittable()
        if self.module.omitted is not None:
            n_bytes, source = self.module.omitted.n_bytes / 1e6, self.module.omitted.source
            logger.info("Checkpoints omit %.1f MB of frozen weights, which come from %s.", n_bytes, source)
        batches = datamodule
        with group.rank_zero_first():
            datamodule.setup("fit")
            check_unseen(training, datamodule.splits)
            if resume_from:
                fingerprint = datamodule.table.fingerprint()
                check_resumable(resume_from, self.cfg, datamodule.splits, fingerprint, world_size=group.world_size)
            elif group.is_rank_zero:  # DDP sends its weights to the others
                fit_patch_components(self.module.model, datamodule)
                probe_head(self.module.model, datamodule)
            if training.freeze_backbone:
                batches = data_for_head(self.module.model, datamodule)
        checkpoint: str | None
        begun = self._begin_folder(datamodule, resume_from, wiring, group.world_size) if group.is_rank_zero else None
        self.run_folder, checkpoint = group.broadcast(begun)  # type: ignore[misc]  # rank zero's is not None
        logger.info(describe_step(training, self.settings.data.dataloader.fixed_batch_size, group.world_size))
        self.trainer = build_lightning_trainer(
            training, [*self.callbacks, *self._run_callbacks()], self.run_folder,
            logger=build_loggers(self.settings, self.run_folder),
            enable_progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
        if training.compile and batches is datamodule:
            compile_network(self.module.model, self.trainer.strategy.root_device)
        try:
            with run_lock(self.run_folder) if self.trainer.is_global_zero else nullcontext():
                self.trainer.fit(self.module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
        except RuntimeError as error:
            raise_if_peer_failed(error)
            if "DataLoader worker" not in str(error):
                raise
            raise MachineError(
                f"A loader worker has died ({str(error).splitlines()[0]}), perhaps out of memory. Continue with "
                "--resume and fewer workers: data.dataloader.num_workers=1."
            ) from error
        except SystemExit as error:  # Lightning exits silently on Ctrl-C
            logger.warning("The run in %s was interrupted; --resume continues after its last epoch.", self.run_folder)
            raise KeyboardInterrupt from error
        if group.is_rank_zero:
            Run(self.run_folder).write_manifest(
                best_val_select_mcc=self.mcc_callback.best_mcc,
                epochs_trained=self.trainer.current_epoch,
            )
        return self.run_folder

    def find_omittable(self) -> None:
        """Finds the frozen weights that checkpoints can omit; again only if they changed since the last call."""
        module, model = self.module, self.module.model
        if module.omitted is None or not module.omitted.matches(model):
            module.omitted = find_omittable(model, self.settings)

    def _begin_folder(
        self, datamodule: NATIXDataModule, resume_from: Path | None, wiring: Sequence[dict[str, Any]], world_size: int
    ) -> tuple[Path, str | None]:
        """The run's folder, new or resumed, and the checkpoint to continue from."""
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
            processes=world_size,
            **({} if resume_from else describe_start(self.settings.training)),
            **({"wiring": list(wiring)} if wiring else {}),
            epochs_trained=None,  # set when training ends; `roadwork runs` reads it
        )
        return folder, checkpoint

    def _run_callbacks(self) -> list[Callback]:
        training, folder = self.settings.training, Run(self.run_folder).checkpoint_folder
        callbacks: list[Callback] = [
            LossCallback(),
            TrainingMonitorCallback(training, self.run_folder),
            MetricsLogCallback(Run(self.run_folder).metrics_file),
            RunMetadataCallback(self.cfg, self.run_folder, self.mcc_callback),
            LearningRateMonitor(logging_interval="step"),
            ModelCheckpoint(
                folder,
                filename="best",
                monitor=MONITOR if training.select == "best" else None,
                mode="max",
                enable_version_counter=False,
            ),
            ModelCheckpoint(folder, filename="last", save_top_k=1, every_n_epochs=1, enable_version_counter=False),
            InterruptionCallback(folder / LAST, training.checkpoint_minutes),
        ]
        if sys.stderr.isatty():
            callbacks.append(RichProgressBar(leave=False, console_kwargs={"stderr": True}))
        if training.patience:
            callbacks.append(EarlyStopping(MONITOR, mode="max", patience=training.patience))
        return callbacks
