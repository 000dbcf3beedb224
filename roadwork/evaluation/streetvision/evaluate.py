"""A run's folder judged under a StreetVision profile: `val_test` as the validator would show it, and its reward."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from roadwork.calibration.rows import logit_differences
from roadwork.evaluation.evaluate import TEST_SPLIT, count_opening, open_run, predict_splits
from roadwork.evaluation.predictions import write_predictions
from roadwork.evaluation.results import evaluate_predictions, evaluate_slice
from roadwork.evaluation.streetvision.predict import LEVEL_COLUMN, predict_challenges
from roadwork.evaluation.streetvision.profiles import find_profile
from roadwork.evaluation.streetvision.reward import simulate_reward
from roadwork.export.facts import ExportFacts
from roadwork.export.run_calibration import read_calibration
from roadwork.runs import read_results, write_json, write_manifest
from roadwork.settings import Settings

SCORE_COLUMN = "challenge_score"
# The validator rounds the score: only what is above 0.5 is Roadwork.
ABOVE_HALF = math.nextafter(0.5, 1.0)


def evaluate_profile(folder: Path, profile_name: str) -> dict[str, Any]:
    """Opens `val_test` under a profile and counts the opening.

    Writes `predictions_<profile>.parquet`, and into `results.json` under `val_test_<profile>`.

    Args:
        folder: a run's folder. Where it is calibrated, temperature and threshold are folded in, as an export does.
        profile_name: such as `streetvision-2026-01`.

    Returns:
        What stands in `results.json`.

    Raises:
        ConfigError: there is no such profile.
        DataError: the run, its data or its calibration cannot be used.
    """
    profile = find_profile(profile_name)
    facts = read_calibration(folder) or ExportFacts()
    others = read_results(folder)
    datamodule, model = open_run(folder)
    settings = datamodule.settings
    opened = count_opening(folder)
    if profile.levels:
        frame = predict_challenges(datamodule, model, TEST_SPLIT, profile.levels, settings.evaluation.seed)
    else:
        frame = predict_splits(datamodule, model, (TEST_SPLIT,))
    frame[SCORE_COLUMN] = folded_scores(frame, facts)
    write_predictions(frame, folder / predictions_file(profile.name))
    result = judge(frame, settings) | {
        "profile": profile.name,
        "temperature": facts.temperature,
        "threshold": facts.threshold,
        "openings": opened,
        "unreadable": len(datamodule.ledger.reasons),
        "leaks": list(datamodule.split_report.leak_warnings),
    }
    write_json(folder / "results.json", others | {result_key(profile.name): result})
    write_manifest(folder)
    return result


def result_key(profile_name: str) -> str:
    """What the profile's figures stand under in `results.json`."""
    return f"{TEST_SPLIT}_{profile_name}"


def predictions_file(profile_name: str) -> str:
    """The name of the file of the profile's predictions."""
    return f"predictions_{profile_name}.parquet"


def folded_scores(frame: pd.DataFrame, facts: ExportFacts) -> np.ndarray:
    """(N,) what an exported detector answers, above 0.5 where it decides Roadwork (`roadwork.export.antisymmetric`)."""
    scores: np.ndarray = expit(logit_differences(frame) / facts.temperature - logit(facts.threshold))
    return scores


def judge(frame: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    """Figures with intervals, by level where there are levels, and the simulated reward, ready for JSON.

    Args:
        frame: predictions with scores; of every level the same photos.
        settings: of the run.
    """
    scored = frame.assign(probability=frame[SCORE_COLUMN])
    options = {"draws": settings.evaluation.bootstrap_draws, "seed": settings.evaluation.seed}
    result = evaluate_predictions(
        scored,
        target_mcc=settings.evaluation.target_mcc,
        brackets=[(low, high) for low, high, _ in settings.data.gps_sampling.weight_brackets],
        threshold=ABOVE_HALF,
        **options,
    )
    if LEVEL_COLUMN in frame:
        result["by_level"] = [
            {"level": level} | evaluate_slice(rows, threshold=ABOVE_HALF, **options)
            for level, rows in scored.groupby(LEVEL_COLUMN)
        ]
    labels = frame["label"].to_numpy()
    result["reward"] = None
    if len(np.unique(labels)) == 2:
        decisions = (frame[SCORE_COLUMN] >= ABOVE_HALF).to_numpy()
        result["reward"] = asdict(simulate_reward(labels, decisions, seed=settings.evaluation.seed))
    return result
