"""Sections on results: decisions, calibration, slices, reward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from roadwork.core.progress import track
from roadwork.data.mixed_datasets import SOURCE
from roadwork.evaluation.streetvision.reward import simulate_reward
from roadwork.metrics.classification import count_confusion, score_all, score_probabilities
from roadwork.metrics.decision import DEFAULT_THRESHOLD, decide, probability
from roadwork.metrics.predictions import predicted_margins
from roadwork.metrics.slices import MIN_GROUPS, MIN_ROWS, find_slicings, slice_metrics, worst_parts
from roadwork.report.charts import Plot, ranking_curves, reliability_bins
from roadwork.report.page import Section, why_no_test_rows
from roadwork.report.run_files import RunFiles
from roadwork.settings.sampling import TEST_SPLIT

_SHARES = (0.0, 1.0)
_BINS = 10
_PREFIX = f"{TEST_SPLIT}_streetvision"


def decisions_section(run: RunFiles) -> Section:
    """Confusion matrix, ROC and precision-recall curves on val_test."""
    title = "Decisions on val_test"
    rows = run.test_rows
    if rows is None:
        return Section("decisions", title, missing=why_no_test_rows(run.predictions))
    labels = rows["label"].to_numpy()
    confusion = count_confusion(labels, rows["probability"].to_numpy(), run.threshold).tolist()
    shown = {
        "confusion": confusion,
        "threshold": run.threshold,
        "roc": None,
        "result": run.result or {},
    }
    if len(set(labels.tolist())) == 2:
        shown |= _draw_curves(rows, run.threshold)
    return Section("decisions", title, shown)


def _draw_curves(rows: pd.DataFrame, threshold: float) -> dict[str, Markup]:
    labels = rows["label"].to_numpy()
    # The temperature does not change the order of rows.
    curves = ranking_curves(labels, probability(predicted_margins(rows)))
    metrics = score_all(labels, rows["probability"].to_numpy(), threshold)
    tn, fp, _, _ = count_confusion(labels, rows["probability"].to_numpy(), threshold).tolist()
    here = f"threshold {threshold:.4g}"
    roc = Plot("ROC curve", x=_SHARES, y=_SHARES, x_label="false positive rate", y_label="recall")
    roc.line([(0, 0), (1, 1)], "chance")
    roc.line(_points(curves.roc), "series1")
    roc.dots([(fp / (tn + fp), metrics["recall"])], "chosen", [here], radius=4.5)
    ranked = Plot("Precision-recall curve", x=_SHARES, y=_SHARES, x_label="recall", y_label="precision")
    share = float(labels.mean())
    ranked.line([(0, share), (1, share)], "chance")
    ranked.line(_points(curves.precision_recall), "series1")
    if not np.isnan(metrics["precision"]):
        ranked.dots([(metrics["recall"], metrics["precision"])], "chosen", [here], radius=4.5)
    return {"roc": roc.svg(), "precision_recall": ranked.svg()}


def _points(values: np.ndarray) -> list[tuple[float, float]]:
    return [(x, y) for x, y in values.tolist()]


def calibration_section(run: RunFiles) -> Section:
    """Reliability before and after calibration, its metrics, the threshold curve, and abstention."""
    title = "Calibration and threshold"
    if run.calibration is None:
        sentence = " ".join(run.notes) or "Not available yet. Run roadwork evaluate RUN, then roadwork calibrate RUN."
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
    """Reliability diagrams of val_test before and after calibration; one if the temperature is 1."""
    names = ["as trained (temperature 1)"]
    if temperature != 1:
        names.append(f"calibrated (temperature {temperature:.3g})")
    diagrams = []
    for name, value in zip(names, (1.0, temperature), strict=False):
        probabilities = probability(predicted_margins(rows), value)
        labels = rows["label"].to_numpy()
        diagrams.append(
            {
                "name": name,
                "plot": _reliability_plot(labels, probabilities, rows["group"].to_numpy(), name),
                "metrics": score_probabilities(labels, probabilities),
            }
        )
    return diagrams


def _reliability_plot(labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, name: str) -> Markup:
    plot = Plot(
        f"Reliability on val_test, {name}",
        x=(0.0, 1.0), y=(0.0, 1.0), x_label="predicted probability", y_label="observed share",
    )  # fmt: skip
    plot.line([(0, 0), (1, 1)], "chance")
    bins = reliability_bins(labels, probabilities, groups, _BINS)
    for part in bins:
        plot.whisker(part.probability, *part.interval, "series1")
    plot.dots(
        [(part.probability, part.share) for part in bins],
        "series1",
        [
            f"predicted {part.probability:.3f}, observed {part.share:.3f} "
            f"({part.interval[0]:.3f} to {part.interval[1]:.3f}); {part.n:,} rows in {part.groups:,} groups"
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
    plot.vertical_line(DEFAULT_THRESHOLD, "0.5", "half")
    if fit["kept"]:
        plot.vertical_line(calibration["threshold"], f"t = {calibration['threshold']:.4f}", "chosen", level=1)
    plot.steps([(point["threshold"], point["mcc"]) for point in curve], "series1")
    return plot.svg()


def reward_section(run: RunFiles) -> Section:
    """The simulated reward on val_test, and metrics by level after `evaluate --profile`."""
    title = "Expected reward in StreetVision"
    rows = run.test_rows
    if rows is None:
        return Section("reward", title, missing=why_no_test_rows(run.predictions))
    labels = rows["label"].to_numpy()
    if len(set(labels.tolist())) < 2:
        return Section("reward", title, missing="val_test has one class only, so no reward can be simulated.")
    decisions = decide(rows["probability"].to_numpy(), run.threshold)
    profiles = {
        key.removeprefix(f"{TEST_SPLIT}_"): _show_profile(result)
        for key, result in run.results.items()
        if key.startswith(_PREFIX)
    }
    shown = {"reward": simulate_reward(labels, decisions, seed=run.settings.evaluation.seed), "profiles": profiles}
    return Section("reward", title, shown)


def _show_profile(result: dict[str, Any]) -> dict[str, Any]:
    """Metrics by level and over all levels."""
    confusion = result.get("confusion", {})
    whole = result | {"level": "all", "errors": confusion.get("fp", 0) + confusion.get("fn", 0)}
    return {"levels": [*result.get("by_level", []), whole], "reward": result.get("reward")}


def elsewhere_section(run: RunFiles) -> Section:
    """The figures on other datasets beside those on val_test, overall and by source, and their familiarity."""
    rows = []
    for result in run.elsewhere:
        if result["overall"] is not None:
            rows.append(result["overall"] | {"name": result["dataset"], "is_whole": True})
        by_source = (slicing["parts"] for slicing in result["slices"] if slicing["title"] == SOURCE)
        rows += [part | {"is_whole": False} for parts in by_source for part in parts]
    familiarity = [
        result["familiarity"] | {"dataset": result["dataset"]} for result in run.elsewhere if "familiarity" in result
    ]
    return Section("elsewhere", "Other datasets", {"rows": rows, "results": run.elsewhere, "familiarity": familiarity})


def slicing_section(run: RunFiles) -> Section:
    """MCC by slice of val_test, the worst first."""
    title = "MCC by slice of val_test"
    rows = run.test_rows
    if rows is None:
        return Section("slicing", title, missing=why_no_test_rows(run.predictions))
    slicings, omitted = find_slicings(rows, run.settings)
    evaluation = run.settings.evaluation
    sliced = [
        slice_metrics(rows, slicing, draws=evaluation.bootstrap_draws, seed=evaluation.seed, threshold=run.threshold)
        for slicing in track(slicings, len(slicings), "Evaluating slices")
    ]
    worst = next(worst_parts(sliced), None)
    shown = {
        "slicings": sliced,
        "omitted": omitted,
        "worst": worst,
        "overall": (run.result or {}).get("mcc"),
        "n_parts": sum(len(metrics.parts) for metrics in sliced),
        "min_rows": MIN_ROWS,
        "min_groups": MIN_GROUPS,
    }
    return Section("slicing", title, shown)
