"""The files of a run folder, read once, with privacy settings applied."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from roadwork.calibration.data import is_fitted_on
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
    """The files of a run folder.

    Attributes:
        folder: the run folder.
        settings: its configuration, with overrides.
        manifest: `manifest.json`; empty if missing.
        results: `results.json`; empty before `evaluate`.
        elsewhere: results on other datasets; empty before `evaluate --on`.
        calibration: `calibration.json` if it was fitted on these predictions; else None.
        predictions: `predictions.parquet`, positions rounded to `privacy.coarsen_gps`; None before `evaluate`.
        epochs: `metrics.jsonl`, one entry per epoch.
        notes: inconsistencies between the files, one sentence each.
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
        """The run's name in a report."""
        return f"{self.settings.experiment} {self.folder.name}"

    @property
    def threshold(self) -> float:
        """The calibrated threshold, else 0.5."""
        return float(self.calibration["threshold"]) if self.calibration else DEFAULT_THRESHOLD

    @property
    def result(self) -> dict[str, Any] | None:
        """The metrics on val_test at `threshold`; None before `evaluate`."""
        return find_test_result(self.results, is_calibrated=self.calibration is not None)

    @cached_property
    def test_rows(self) -> pd.DataFrame | None:
        """The rows of val_test, with the probability that `threshold` applies to; None if there are none."""
        if self.predictions is None:
            return None
        rows = self.predictions[self.predictions["split"] == TEST_SPLIT]
        if self.calibration:
            rows = rows.assign(probability=rows[CALIBRATED_COLUMN])
        return None if rows.empty else rows.reset_index(drop=True)


def read_run(folder: Path, overrides: Sequence[str] = ()) -> RunFiles:
    """Reads a run folder, evaluated or not.

    Args:
        folder: the run folder; it needs at least `config.yaml`.
        overrides: `key=value` on top of the run's own configuration, such as `privacy.blur=3`.

    Raises:
        DataError: a file is damaged.
        ConfigError: an override is invalid.
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
    """The calibration if it was fitted on these predictions, else None and a note."""
    if calibration is None or predictions is None:
        return None, ()
    try:
        belongs = CALIBRATED_COLUMN in predictions and is_fitted_on(calibration, predictions)
    except DataError:
        belongs = False
    if belongs:
        return calibration, ()
    return None, ("calibration.json was fitted on other predictions, so it is ignored. Run roadwork calibrate RUN.",)


def _finite(epoch: dict[str, Any]) -> dict[str, Any]:
    """The finite numbers of an epoch, which charts can draw."""
    return {key: value for key, value in epoch.items() if isinstance(value, int | float) and math.isfinite(value)}
