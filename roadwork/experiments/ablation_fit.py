"""Trains the fits of an ablation."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import lightning as L
import numpy as np
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
from roadwork.experiments.ablation_plan import Ablation, Fit
from roadwork.metrics.classification import count_confusion, mcc
from roadwork.metrics.predictions import write_predictions
from roadwork.models.head import head_of, in_evaluation_mode
from roadwork.preflight.dry_run import run_dry
from roadwork.runs.run import LAST
from roadwork.settings.sampling import CALIBRATION_SPLIT
from roadwork.training.linear_probe import why_no_features
from roadwork.training.trainers.factory import prepare_trainer

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
        return predict_splits(datamodule, model, [CALIBRATION_SPLIT])
    rows = datamodule.datasets[CALIBRATION_SPLIT].rows
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


def run_fits(ablation: Ablation, say: Callable[[str], object]) -> None:
    """Trains the unfinished fits; an arm's wires are proven before the first of its own.

    Args:
        ablation: its finished fits are kept.
        say: is given a line for each step, with the time left.

    Raises:
        RoadworkError: an arm cannot be built, or one of its wires is dead.
    """
    waiting, n_fits = ablation.unfinished, len(ablation.fits)
    if len(waiting) < n_fits:
        say(f"{n_fits - len(waiting)} of {n_fits} fits are finished already; they are kept.")
    first_of_arm = {fit.arm: fit for fit in reversed(waiting)}
    for fit in first_of_arm.values():
        check_builds(fit)
    taken: list[tuple[str, float]] = []
    for done, fit in enumerate(waiting):
        began = time.monotonic()
        datamodule = NATIXDataModule(fit.cfg)
        if fit is first_of_arm[fit.arm]:
            _prove_wires(datamodule, fit.arm)
        frame = run_fit(fit, datamodule)
        taken.append((fit.arm, time.monotonic() - began))
        value = float(mcc(count_confusion(frame["label"].to_numpy(), frame["probability"].to_numpy())))
        seconds_left = estimate_left(taken, [left.arm for left in waiting[done + 1 :]])
        if done == 0 and len(waiting) > 1:
            say(f"{len(waiting)} fits, {show_minutes(taken[0][1] + seconds_left)} by the first.")
        say(
            f"{n_fits - len(waiting) + done + 1} of {n_fits}: {fit.arm}, seed {fit.seed} on fold {fit.fold + 1}: MCC "
            f"{value:.3f} on {len(frame):,} held-out rows; {show_minutes(seconds_left)} left."
        )


def estimate_left(taken: Sequence[tuple[str, float]], arms_left: Sequence[str]) -> float:
    """Seconds that fits of these arms will take: each arm's own mean so far, the mean of all where it has none.

    Args:
        taken: arm and seconds of each finished fit, at least one.
        arms_left: of the fits to come.
    """
    by_arm: dict[str, list[float]] = {}
    for arm, seconds in taken:
        by_arm.setdefault(arm, []).append(seconds)
    overall = float(np.mean([seconds for _, seconds in taken]))
    return float(sum(np.mean(by_arm.get(arm, [overall])) for arm in arms_left))


def show_minutes(seconds: float) -> str:
    """`about 25 min`, below two minutes in seconds."""
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def _prove_wires(datamodule: NATIXDataModule, arm: str) -> None:
    dead = [row for row in run_dry(datamodule, prepare_trainer(datamodule)) if not row.works]
    if dead:
        raise WiringError(
            f"The arm {arm} has dead wires, so it would not be what its name says: "
            + "; ".join(f"{row.wire} ({row.observed}): {row.fix}" for row in dead)
        )
