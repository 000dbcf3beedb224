"""What a dry run observed, and a row of the table that judges it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

from roadwork.data.datamodule import NATIXDataModule
from roadwork.preflight.probe import CallCounter, WiringProbe
from roadwork.training.trainers.base_trainer import BaseTrainer


@dataclass(frozen=True)
class WireRow:
    """One wire: what was observed, whether that shows that it works, and what to look at if not."""

    wire: str
    observed: str
    works: bool
    fix: str


@dataclass
class Observations:
    """All that a dry run observed."""

    trainer: BaseTrainer
    datamodule: NATIXDataModule
    probe: WiringProbe
    calls: dict[Callback, CallCounter]
    logged: dict[str, float]
    next_epoch: np.ndarray
    checkpoint: dict[str, Any] | None
    n_train: int
    n_validation: int
