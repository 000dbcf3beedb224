"""What a run's folder holds, read once: as it may be shown to others, and with what is missing left out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from roadwork.calibration.data import read_rows
from roadwork.core.errors import DataError
from roadwork.metrics.decision import DEFAULT_THRESHOLD
from roadwork.metrics.predictions import CALIBRATED_COLUMN, read_predictions
from roadwork.report.privacy import coarsen_predictions
from roadwork.runs.run import Run, find_test_result
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFiles:
    """A run's folder.

    Attributes:
        folder: where it is.
        settings: its configuration, with the reader's overrides on top.
        manifest: `manifest.json`, empty where there is none.
        results: `results.json`, empty before `evaluate`.
        elsewhere: results on other datasets, empty before `evaluate --on`.
        calibration: `calibration.json` where it belongs to the predictions; else None.
        predictions: `predictions.parquet`, positions as coarse as `privacy.coarsen_gps` asks; None before `evaluate`.
        epochs: `metrics.jsonl`, one entry an epoch.
        notes: what does not fit together, one sentence each.
    """

    folder: Path
    settings: Settings
    manifest: dict[str, Any]
    results: dict[str, Any]
    elsewhere: list[dict[str, Any]]
    calibration: dict[str, Any] | None
    predictions: pd.DataFrame | None
    epochs: list[dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the run is called in a report."""
        return f"{self.settings.experiment} {self.folder.name}"

    @property
    def threshold(self) -> float:
        """The one the run decides at: the calibrated one, else 0.5."""
        return float(self.calibration["threshold"]) if self.calibration else DEFAULT_THRESHOLD

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures on val_test at `threshold`; None before `evaluate`."""
        return find_test_result(self.results, is_calibrated=self.calibration is not None)

    @cached_property
    def test_rows(self) -> pd.DataFrame | None:
        """The rows of val_test, `probability` being the one that `threshold` decides on; None where there are none."""
        if self.predictions is None:
            return None
        rows = self.predictions[self.predictions["split"] == TEST_SPLIT]
        if self.calibration:
            rows = rows.assign(probability=rows[CALIBRATED_COLUMN])
        return None if rows.empty else rows.reset_index(drop=True)


def read_run(folder: Path, overrides: Sequence[str] = ()) -> RunFiles:
    """A run's folder, evaluated or not.

    Args:
        folder: it, with its `config.yaml`.
        overrides: `key=value` on top of the run's own configuration, such as `privacy.blur=3`.

    Raises:
        DataError: a file is damaged.
        ConfigError: an override that cannot be used.
    """
    run = Run(folder)
    settings = run.read_settings(overrides)
    path = run.predictions_file
    epochs, damaged = run.read_epochs()
    predictions = read_predictions(path) if path.is_file() else None
    calibration, notes = _belonging_calibration(run.read_calibration(), predictions)
    if predictions is not None:
        predictions = coarsen_predictions(predictions, settings.privacy.coarsen_gps)
    return RunFiles(
        folder=folder,
        settings=settings,
        manifest=run.read_manifest(),
        results=run.read_results(),
        elsewhere=run.read_elsewhere(),
        calibration=calibration,
        predictions=predictions,
        epochs=[_finite(epoch) for epoch in epochs],
        notes=(*notes, *(f"metrics.jsonl: line {number} is damaged and was skipped." for number in damaged)),
    )


def _belonging_calibration(
    calibration: dict[str, Any] | None, predictions: pd.DataFrame | None
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The calibration where it was made from these predictions, and else what to say."""
    if calibration is None or predictions is None:
        return None, ()
    try:
        belongs = CALIBRATED_COLUMN in predictions and read_rows(predictions)[1] == calibration["sha256_of_rows"]
    except (DataError, KeyError):
        belongs = False
    if belongs:
        return calibration, ()
    return None, ("calibration.json was made from other predictions, so it is left out: roadwork calibrate RUN.",)


def _finite(epoch: dict[str, Any]) -> dict[str, Any]:
    """The finite numbers of an epoch; a chart has no use for others."""
    return {key: value for key, value in epoch.items() if isinstance(value, int | float) and math.isfinite(value)}
