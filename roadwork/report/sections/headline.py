"""What the run is worth, in a screenful."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from roadwork.evaluation.metrics import count_confusion
from roadwork.report.run_files import TEST_SPLIT, RunFiles
from roadwork.report.section import NOT_EVALUATED, Section

_FIGURES = (
    ("accuracy", "Accuracy", "decisions that are right"),
    ("precision", "Precision", "right among those called Roadwork"),
    ("recall", "Recall", "found among those with Roadwork"),
    ("f1", "F1", "harmonic mean of the two above"),
    ("auroc", "AUROC", "pairs in which Roadwork ranks higher"),
    ("auprc", "AUPRC", "mean precision over all thresholds"),
)


def headline_section(run: RunFiles) -> Section:
    """MCC with its interval, the verdict on the target, how often val_test was opened, and leaks."""
    title = "MCC on val_test"
    if run.result is None:
        return Section("headline", title, missing=NOT_EVALUATED)
    plain = run.results.get(TEST_SPLIT, {})
    shown = {
        "result": run.result,
        "threshold": run.threshold,
        "is_calibrated": run.calibration is not None,
        "at_half": plain if run.threshold != 0.5 else None,
        "least": scale_start([run.result]),
        "openings": run.manifest.get("val_test_openings", run.result.get("openings")),
        "leaks": run.result.get("leaks") or plain.get("leaks", []),
        "unreadable": plain.get("unreadable", 0),
        "figures": _FIGURES,
        "notes": [*run.notes, *_contradiction(run)],
    }
    return Section("headline", title, shown)


def scale_start(results: Sequence[dict[str, Any]]) -> float:
    """Where a scale of MCCs begins so that all intervals fit: a tenth, at most 0.8."""
    lows: list[float] = [result["mcc_low"] for result in results if result["mcc_low"] is not None]
    return min([0.8, *(math.floor(10 * low) / 10 for low in lows)])


def _contradiction(run: RunFiles) -> list[str]:
    """Files of two evaluations side by side would give a report that contradicts itself."""
    if run.result is None or run.test_rows is None:
        return []
    labels, probabilities = run.test_rows["label"].to_numpy(), run.test_rows["probability"].to_numpy()
    if count_confusion(labels, probabilities, run.threshold).tolist() == [*run.result["confusion"].values()]:
        return []
    sentence = (
        "results.json and predictions.parquet are not of one evaluation: their decisions on val_test differ. "
        "Run roadwork evaluate RUN, then roadwork calibrate RUN."
    )
    return [sentence]
