"""Lightning's Trainer under the training settings: for a fit, a dry run, a profile and a trial of the batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback

from roadwork.errors import ConfigError
from roadwork.settings import TrainingSettings
from roadwork.training.checkpoints.files import SafeCheckpointIO
from roadwork.training.devices import batch_norm_plugins, device_arguments


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
