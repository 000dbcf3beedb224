"""A run's folder calibrated: `calibration.json`, a column in `predictions.parquet`, and `val_test` at the threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from roadwork.calibration.calibrate import CalibrationOptions, calibrate
from roadwork.calibration.probabilities import to_probability
from roadwork.calibration.rows import logit_differences
from roadwork.config import load_yaml, to_settings
from roadwork.evaluation.predictions import CALIBRATED_COLUMN, read_predictions, write_predictions
from roadwork.evaluation.results import evaluate_predictions
from roadwork.runs import read_manifest, read_results, write_json, write_manifest
from roadwork.settings import Settings

TEST_SPLIT = "val_test"
RESULT_KEY = "val_test_calibrated"


def calibrate_run(folder: Path, options: CalibrationOptions) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Calibrates on `val_calib`, then opens `val_test` at the threshold, and counts the opening.

    Args:
        folder: a run's folder, evaluated.
        options: What is asked.

    Returns:
        What `calibration.json` holds, and `results.json` under `val_test_calibrated`: None without rows of `val_test`.

    Raises:
        DataError: the run was not evaluated, or `val_calib` cannot be calibrated on.
    """
    path = folder / "predictions.parquet"
    frame = read_predictions(path)
    settings = to_settings(load_yaml(folder / "config.yaml"))
    calibration = calibrate(frame, options, draws=settings.evaluation.bootstrap_draws, seed=settings.evaluation.seed)
    calibrated = to_probability(logit_differences(frame), calibration["temperature"])
    frame = frame.drop(columns=CALIBRATED_COLUMN, errors="ignore")
    frame.insert(list(frame.columns).index("probability") + 1, CALIBRATED_COLUMN, calibrated)
    write_predictions(frame, path)
    write_json(folder / "calibration.json", calibration)
    result = _open_test(folder, frame, calibration["threshold"], settings)
    write_manifest(folder)
    return calibration, result


def _open_test(folder: Path, frame: pd.DataFrame, threshold: float, settings: Settings) -> dict[str, Any] | None:
    rows = frame[frame["split"] == TEST_SPLIT]
    if rows.empty:
        return None
    results = read_results(folder)
    opened = read_manifest(folder).get("val_test_openings", 0) + 1
    write_manifest(folder, val_test_openings=opened)
    result = evaluate_predictions(
        rows.assign(probability=rows[CALIBRATED_COLUMN]),
        target_mcc=settings.evaluation.target_mcc,
        draws=settings.evaluation.bootstrap_draws,
        seed=settings.evaluation.seed,
        brackets=[(low, high) for low, high, _ in settings.data.gps_sampling.weight_brackets],
        threshold=threshold,
    )
    leaks = results.get(TEST_SPLIT, {}).get("leaks", [])
    result |= {"threshold": threshold, "openings": opened, "leaks": leaks}
    write_json(folder / "results.json", results | {RESULT_KEY: result})
    return result
