"""Runs' folders for reports: a small trained one, and ones whose names and values try to be code."""

import json
import shutil

import numpy as np
import pandas as pd

from roadwork.calibration.calibrate import CalibrationOptions
from roadwork.calibration.run import calibrate_run
from roadwork.core.files import write_json
from roadwork.metrics.decision import softmax_roadwork
from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.metrics.results import evaluate_predictions

BRACKETS = [(0, 50), (50, 200), (200, 500), (500, float("inf"))]
HOSTILE = (
    "</script></style><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"' onload=window.pwned=1 x='`${window.pwned=1}`",
    "{{ 7*7 }}{% raw %}{# #}",
    "&lt;b&gt; --><!-- ]]>" + "w" * 300,
)


def copy_run(run, folder):
    """A copy that a test may change, without the weights, whose bootstraps are short."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("bootstrap_draws: 2000", "bootstrap_draws: 100"))
    return folder


def rewrite(run, change):
    """The run as if its detector, or its data, had been other: `change` takes and gives the predictions."""
    frame = change(read_predictions(run / "predictions.parquet").drop(columns="probability_calibrated"))
    frame["probability"] = softmax_roadwork(frame[["logit_none", "logit_roadwork"]].to_numpy())
    write_predictions(frame, run / "predictions.parquet")
    test = frame[frame["split"] == "val_test"]
    result = evaluate_predictions(test, target_mcc=0.99, draws=200, seed=0, brackets=BRACKETS)
    write_json(run / "results.json", {"val_test": result | {"openings": 1, "unreadable": 0, "leaks": []}})
    calibrate_run(run, CalibrationOptions())
    return run


def random_logits(frame, sharpness=1.5, seed=0):
    """Rows decided well but not perfectly."""
    rng = np.random.default_rng(seed)
    difference = sharpness * (2 * frame["label"] - 1) + rng.normal(0, 1.5, len(frame)) + 0.3
    return frame.assign(logit_none=0.0, logit_roadwork=difference)


def make_hostile(run):
    """File names, column names, values, groups, wires and a leak that try to be code."""

    def change(frame):
        frame = random_logits(frame)
        numbers = np.arange(len(frame)) % len(HOSTILE)
        texts = np.array(HOSTILE, dtype=object)[numbers]
        return frame.assign(
            filename=texts, group=frame["group"] + pd.Series(texts, index=frame.index), **dict.fromkeys(HOSTILE, texts)
        )

    rewrite(run, change)
    results = json.loads((run / "results.json").read_text())
    for result in results.values():
        result["leaks"] = [*HOSTILE]
    write_json(run / "results.json", results)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["wiring"] = [{"wire": text, "observed": text, "works": False, "fix": text} for text in HOSTILE]
    manifest["git_revision"] = HOSTILE[0]
    write_json(run / "manifest.json", manifest)
    return run
