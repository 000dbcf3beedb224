"""Whether probabilities keep what they promise, and where to decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from roadwork.calibration.probabilities import score_probabilities, to_probability
from roadwork.calibration.rows import logit_differences
from roadwork.report.curves import reliability_bins
from roadwork.report.plot import Plot
from roadwork.report.run_files import DEFAULT_THRESHOLD, RunFiles
from roadwork.report.section import Section

_BINS = 10


def calibration_section(run: RunFiles) -> Section:
    """Reliability before and after, its figures, the threshold curve, and when no answer is given."""
    title = "Calibration and threshold"
    if run.calibration is None:
        sentence = " ".join(run.notes) or "Not there yet: roadwork calibrate RUN makes this, after roadwork evaluate."
        return Section("calibration", title, missing=sentence)
    fit = run.calibration["temperature_fit"]
    shown: dict[str, Any] = {
        "calibration": run.calibration,
        "before": fit["before"],
        "after": (fit["after"] or fit["before"]) if fit["kept"] else fit["before"],
        "threshold_plot": _threshold_plot(run.calibration),
        "reliability": [],
    }
    if run.test_rows is not None:
        shown["reliability"] = _draw_reliability(run.test_rows, run.calibration["temperature"])
    return Section("calibration", title, shown)


def _draw_reliability(rows: pd.DataFrame, temperature: float) -> list[dict[str, Any]]:
    """One diagram of val_test where the temperature stayed 1, else one before and one after."""
    names = ["as trained (temperature 1)"]
    if temperature != 1:
        names.append(f"calibrated (temperature {temperature:.3g})")
    diagrams = []
    for name, value in zip(names, (1.0, temperature), strict=False):
        probabilities = to_probability(logit_differences(rows), value)
        labels = rows["label"].to_numpy()
        diagrams.append(
            {
                "name": name,
                "plot": _reliability_plot(labels, probabilities, rows["group"].to_numpy(), name),
                "figures": score_probabilities(labels, probabilities),
            }
        )
    return diagrams


def _reliability_plot(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, name: str) -> Markup:
    plot = Plot(
        f"Reliability on val_test, {name}",
        x=(0.0, 1.0), y=(0.0, 1.0), x_label="probability given", y_label="share of Roadwork",
    )  # fmt: skip
    plot.line([(0, 0), (1, 1)], "chance")
    bins = reliability_bins(labels, probabilities, groups, _BINS)
    for part in bins:
        plot.whisker(part.probability, *part.interval, "series1")
    plot.dots(
        [(part.probability, part.share) for part in bins],
        "series1",
        [
            f"given {part.probability:.3f}, was {part.share:.3f} ({part.interval[0]:.3f} to {part.interval[1]:.3f}); "
            f"{part.n:,} rows in {part.groups:,} groups"
            for part in bins
        ],
        radius=3.5,
    )
    return plot.svg()


def _threshold_plot(calibration: dict[str, Any]) -> Markup:
    curve, fit = calibration["curve"], calibration["threshold_fit"]
    values = [point["mcc"] for point in curve]
    plot = Plot(
        "MCC by threshold on val_calib",
        x=(0.0, 1.0), y=(min(0.0, *values), 1.0), x_label="threshold", y_label="MCC on val_calib",
    )  # fmt: skip
    low, high = fit["interval"]
    plot.span(low, high, "series3")
    plot.upright(DEFAULT_THRESHOLD, "0.5", "half")
    if fit["kept"]:
        plot.upright(calibration["threshold"], f"t = {calibration['threshold']:.4f}", "chosen", level=1)
    plot.steps([(point["threshold"], point["mcc"]) for point in curve], "series1")
    return plot.svg()
