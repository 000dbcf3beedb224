"""Trains the fits of an ablation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import STEP_OUTPUT
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from typing_extensions import override

from roadwork.core.errors import WiringError
from roadwork.core.files import write_json
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.features import compute_features
from roadwork.evaluation.evaluate import predict_splits, tabulate
from roadwork.experiments.plan import Fit, Plan, run_fits
from roadwork.metrics.predictions import write_predictions
from roadwork.models.head import head_of, in_evaluation_mode
from roadwork.preflight.dry_run import run_dry
from roadwork.runs.run import LAST
from roadwork.settings.sampling import CALIBRATION_SPLIT
from roadwork.training.linear_probe import why_no_features
from roadwork.training.trainers.factory import prepare_trainer

FACTS = ("steps", "trainable", "seconds", "images_per_second", "checkpoint_mb", "wall_seconds")


class TrainingClock(Callback):
    """Measures seconds and images of training steps, with augmentation but without validation."""

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
    """Trains a fit, stores its predictions of the held-out rows and its facts, and deletes its checkpoints.

    The last weights are evaluated (their average if EMA is on), not the best by `val_select`: selecting the best of
    many validations would favour conditions that train less steadily.

    Args:
        fit: files of an earlier attempt in its folder are deleted.
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
    shutil.rmtree(run_folder / "checkpoints")  # more than a gigabyte per fit of a ViT
    write_json(fit.facts_file, dict(zip(FACTS, facts, strict=True)))
    return frame


def predict_held_out(model: nn.Module, datamodule: NATIXDataModule) -> pd.DataFrame:
    """The predictions table of the held-out fold; a frozen backbone uses its cached features."""
    is_frozen = datamodule.settings.training.freeze_backbone and why_no_features(model, datamodule) is None
    if not (is_frozen and isinstance(model, PreTrainedModel)):
        model.eval()
        return predict_splits(datamodule, model, [CALIBRATION_SPLIT])
    rows = datamodule.datasets[CALIBRATION_SPLIT].rows
    features = compute_features(model, datamodule.settings, datamodule.ledger, datamodule.source, rows)
    head = head_of(model)
    with in_evaluation_mode(model), torch.inference_mode():
        values = torch.from_numpy(features.values).to(next(head.parameters()).device)
        logits = head(values).double().cpu().numpy()
    return tabulate(datamodule, features.rows, logits)


def check_builds(fit: Fit) -> None:
    """Builds the fit's network with its adapter, so that errors come before hours of training.

    Raises:
        RoadworkError: the network cannot be built, or does not support the adapter.
        WiringError: the network has no adapter layer.
    """
    network = prepare_trainer(NATIXDataModule(fit.cfg)).module.model
    has_adapter = any(isinstance(module, BaseTunerLayer) for module in network.modules())
    if fit.cfg.training.adapter != "none" and not has_adapter:
        raise WiringError(f"The condition {fit.condition} sets an adapter, but its network has no adapter layer.")


def run_ablation(plan: Plan, show: Callable[[str], object]) -> None:
    """Trains the unfinished fits; checks the wiring of each condition before its first fit.

    Args:
        plan: of the ablation.
        show: receives each line.

    Raises:
        RoadworkError: a condition cannot be built, or its wiring check failed.
    """
    for fit in {fit.condition: fit for fit in reversed(plan.unfinished)}.values():
        check_builds(fit)

    def train(fit: Fit, is_first: bool) -> pd.DataFrame:
        datamodule = NATIXDataModule(fit.cfg)
        if is_first:
            _check_wiring(datamodule, fit.condition)
        return run_fit(fit, datamodule)

    run_fits(plan, train, show)


def _check_wiring(datamodule: NATIXDataModule, condition: str) -> None:
    failed = [row for row in run_dry(datamodule, prepare_trainer(datamodule)) if not row.works]
    if failed:
        raise WiringError(
            f"The wiring check of the condition {condition} failed, so it would not train what it names: "
            + "; ".join(f"{row.wire} ({row.observed}): {row.fix}" for row in failed)
        )
