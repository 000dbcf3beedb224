"""What a run's folder holds, read once: as it may be shown to others, and with what is missing left out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from roadwork.calibration.data import read_rows
from roadwork.config import load_config, to_settings
from roadwork.core.errors import DataError
from roadwork.metrics.predictions import CALIBRATED_COLUMN, read_predictions
from roadwork.report.privacy import coarsen_predictions
from roadwork.runs.run import read_manifest
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

logger = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5
_REMEDY = "Make it again with `roadwork evaluate RUN` and `roadwork calibrate RUN`."


@dataclass(frozen=True)
class RunFiles:
    """A run's folder.

    Attributes:
        folder: where it is.
        settings: its configuration, with the reader's overrides on top.
        manifest: `manifest.json`, empty where there is none.
        results: `results.json`, empty before `evaluate`.
        calibration: `calibration.json` where it belongs to the predictions; else None.
        predictions: `predictions.parquet`, positions as coarse as `privacy.coarsen_gps` asks; None before `evaluate`.
        epochs: `metrics.jsonl`, one entry an epoch.
        notes: what does not fit together, one sentence each.
    """

    folder: Path
    settings: Settings
    manifest: dict[str, Any]
    results: dict[str, Any]
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
        key = f"{TEST_SPLIT}_calibrated" if self.calibration else TEST_SPLIT
        result: dict[str, Any] | None = self.results.get(key) or self.results.get(TEST_SPLIT)
        return result

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
    settings = to_settings(load_config(folder / "config.yaml", overrides))
    path = folder / "predictions.parquet"
    predictions = read_predictions(path) if path.is_file() else None
    calibration, notes = _belonging_calibration(_read_json(folder / "calibration.json"), predictions)
    if predictions is not None:
        predictions = coarsen_predictions(predictions, settings.privacy.coarsen_gps)
    return RunFiles(
        folder=folder,
        settings=settings,
        manifest=read_manifest(folder),
        results=_read_json(folder / "results.json") or {},
        calibration=calibration,
        predictions=predictions,
        epochs=_read_epochs(folder / "metrics.jsonl"),
        notes=notes,
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


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. {_REMEDY}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no JSON object. {_REMEDY}")
    return content


def _read_epochs(path: Path) -> list[dict[str, Any]]:
    """One entry an epoch, in order; of an epoch that was repeated after an interruption, the last."""
    if not path.is_file():
        return []
    epochs: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            epochs[int(entry["epoch"])] = {
                key: value for key, value in entry.items() if isinstance(value, int | float) and math.isfinite(value)
            }
        except (ValueError, TypeError, KeyError):  # a line cut short by a full disk or a stop
            logger.warning("%s: line %d is no epoch's figures, and left out.", path, number)
    return [epochs[epoch] for epoch in sorted(epochs)]
