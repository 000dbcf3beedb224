"""One fit of an ablation: trained in full, judged with its last weights, its predictions and figures kept."""

from __future__ import annotations

import shutil
import time
from typing import Any

import lightning.pytorch as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import override

from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.features import compute_features
from roadwork.errors import WiringError
from roadwork.evaluation.evaluate import predict_splits, tabulate
from roadwork.evaluation.predictions import write_predictions
from roadwork.experiments.ablate_plan import Fit
from roadwork.experiments.fold_splits import HELD_OUT
from roadwork.models.head import head_of, in_evaluation_mode
from roadwork.preflight.dry_run import prepare_trainer
from roadwork.runs import write_json
from roadwork.training.checkpoints.files import LAST
from roadwork.training.frozen import why_no_features

FACTS = ("steps", "trainable", "seconds", "images_per_second", "checkpoint_mb", "wall_seconds")


class TrainingClock(Callback):
    """Seconds and images of training, with augmentation; without validation, and without what comes before an epoch."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._since = 0.0

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: STEP_OUTPUT, batch: Any, batch_idx: int
    ) -> None:
        now = time.perf_counter()
        self.seconds, self._since = self.seconds + now - self._since, now
        self.images += len(batch["label"])


def run_fit(fit: Fit, datamodule: NATIXDataModule) -> pd.DataFrame:
    """Trains a fit and stores its predictions of the held-out rows, then its figures; its checkpoints are removed.

    The last weights are judged (their average, where the arm has one), not the best by `val_select`: the best of a
    number of validations is itself a gain, and a larger one for an arm whose training is less steady, so it would be
    counted for that arm.

    Args:
        fit: what is left of an earlier attempt in its folder is removed.
        datamodule: of `fit.cfg`.

    Returns:
        The predictions table.
    """
    began = time.perf_counter()
    shutil.rmtree(fit.folder, ignore_errors=True)
    trainer, clock = prepare_trainer(datamodule), TrainingClock()
    trainer.callbacks.append(clock)
    run_folder = trainer.fit(datamodule)
    if hasattr(trainer, "ema_callback"):
        trainer.ema_callback.apply_shadow()
    frame = predict_held_out(trainer.module.model, datamodule)
    write_predictions(frame, fit.predictions_file)
    facts = (
        trainer.trainer.global_step,
        sum(p.numel() for p in trainer.module.model.parameters() if p.requires_grad),
        clock.seconds,
        clock.images / clock.seconds,
        (run_folder / "checkpoints" / LAST).stat().st_size / 1e6,
        time.perf_counter() - began,
    )
    shutil.rmtree(run_folder / "checkpoints")  # a gigabyte and more for each fit of a ViT
    write_json(fit.facts_file, dict(zip(FACTS, facts, strict=True)))
    return frame


def predict_held_out(model: nn.Module, datamodule: NATIXDataModule) -> pd.DataFrame:
    """The predictions table of the held-out fold, by the features of a frozen backbone where they are kept."""
    is_frozen = datamodule.settings.training.freeze_backbone and why_no_features(model, datamodule) is None
    if not (is_frozen and isinstance(model, PreTrainedModel)):
        model.eval()
        return predict_splits(datamodule, model, [HELD_OUT])
    rows = datamodule.datasets[HELD_OUT].rows
    features = compute_features(model, datamodule.settings, datamodule.ledger, datamodule.source, rows)
    head = head_of(model)
    with in_evaluation_mode(model), torch.inference_mode():
        values = torch.from_numpy(features.values).to(next(head.parameters()).device)
        logits = head(values).double().cpu().numpy()
    return tabulate(datamodule, features.rows, logits)


def check_builds(fit: Fit) -> None:
    """Builds the fit's network with its adapter, so that what cannot be had is said before hours of training.

    Raises:
        RoadworkError: the network cannot be built, or does not take the arm's adapter.
        WiringError: the adapter is not in the network.
    """
    network = prepare_trainer(NATIXDataModule(fit.cfg)).module.model
    has_adapter = any(isinstance(module, BaseTunerLayer) for module in network.modules())
    if fit.cfg.training.adapter != "none" and not has_adapter:
        raise WiringError(f"The arm {fit.arm} has no layer of its adapter in its network: it would train another one.")
