"""Sections on the headline result, learning curves and setup."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from omegaconf import OmegaConf

from roadwork.metrics.classification import count_confusion
from roadwork.report.charts import Plot, Point
from roadwork.report.page import NOT_EVALUATED, Section
from roadwork.report.run_files import RunFiles
from roadwork.runs.ensemble_record import is_ensemble
from roadwork.settings.sampling import TEST_SPLIT

SELECTING = "val_select/mcc"
_LOSSES = (("train/loss", "series1"), ("val_select/loss", "series2"))
_METRICS = (
    ("accuracy", "Accuracy", "share of correct decisions"),
    ("precision", "Precision", "correct among predicted Roadwork"),
    ("recall", "Recall", "found among true Roadwork"),
    ("f1", "F1", "harmonic mean of precision and recall"),
    ("auroc", "AUROC", "chance that Roadwork ranks above None"),
    ("auprc", "AUPRC", "average precision over all thresholds"),
)


def learning_section(run: RunFiles) -> Section:
    """Losses, val_select MCC and learning rate by epoch."""
    title = "Learning curves"
    if is_ensemble(run.folder):
        return Section("learning", title, missing="An ensemble is not trained. See the reports of its runs.")
    if not run.epochs:
        return Section(
            "learning", title, missing="metrics.jsonl has no epochs: the run stopped before the first one ended."
        )
    selected = selected_epoch(run.epochs, run.settings.training.select)
    best = next((entry for entry in run.epochs if entry["epoch"] == selected), {})
    shown = {
        "loss": _loss_plot(run.epochs, selected),
        "mcc": mcc_plot([(run.epochs, "series2")], selected),
        "rate": _rate_plot(run.epochs, selected),
        "selected": selected,
        "select": run.settings.training.select,
        "best_mcc": best.get(SELECTING),
        "n_epochs": len(run.epochs),
        "minutes": run.epochs[-1].get("seconds", 0.0) / 60,
    }
    return Section("learning", title, shown)


def selected_epoch(epochs: list[dict[str, Any]], select: str) -> int | None:
    """The epoch of best.ckpt, from 0: the first one with the highest val_select MCC, as in Lightning, or the last."""
    evaluated = [entry for entry in epochs if SELECTING in entry]
    if select == "last":
        return evaluated[-1]["epoch"] if evaluated else None
    return max(evaluated, key=lambda entry: entry[SELECTING])["epoch"] if evaluated else None


def series(epochs: list[dict[str, Any]], key: str) -> list[Point]:
    """Points (epoch, value) of the epochs that have a value; epochs count from 1."""
    return [(entry["epoch"] + 1, entry[key]) for entry in epochs if key in entry]


def mcc_plot(runs: list[tuple[list[dict[str, Any]], str]], selected: int | None) -> Markup:
    """MCC on val_select by epoch, for one or more runs, each with its style."""
    curves = [(series(epochs, SELECTING), style) for epochs, style in runs]
    lowest = min([0.9, *(math.floor(10 * value) / 10 for points, _ in curves for _, value in points)])
    plot = _epochs_plot([entry for epochs, _ in runs for entry in epochs], "MCC on val_select", (lowest, 1.0))
    if selected is not None:
        plot.vertical_line(selected + 1, "selected", "chosen")
    for points, style in curves:
        _draw(plot, points, style)
    return plot.svg()


def _loss_plot(epochs: list[dict[str, Any]], selected: int | None) -> Markup:
    values = [value for key, _ in _LOSSES for _, value in series(epochs, key) if value > 0]
    if not values:
        return Markup()
    plot = _epochs_plot(epochs, "loss (log scale)", (min(values) / 1.2, max(values) * 1.2), log_y=True)
    if selected is not None:
        plot.vertical_line(selected + 1, "selected", "chosen")
    for key, style in _LOSSES:
        _draw(plot, [point for point in series(epochs, key) if point[1] > 0], style)
    return plot.svg()


def _rate_plot(epochs: list[dict[str, Any]], selected: int | None) -> Markup:
    points = [(epoch, 1000 * rate) for epoch, rate in series(epochs, "lr")]
    if not points:
        return Markup()
    highest = 1.06 * max(rate for _, rate in points) or 1.0
    plot = _epochs_plot(epochs, "learning rate × 1000", (0.0, highest))
    if selected is not None:
        plot.vertical_line(selected + 1, "selected", "chosen")
    _draw(plot, points, "series3")
    return plot.svg()


def _epochs_plot(epochs: list[dict[str, Any]], label: str, y: tuple[float, float], *, log_y: bool = False) -> Plot:
    last = max(entry["epoch"] for entry in epochs) + 1
    step = max(1, -(-last // 8))
    ticks = list(range(step, last + 1, step)) if step > 1 else list(range(1, last + 1))
    title = f"{label} by epoch"
    x = (1.0, max(last, 2.0))
    return Plot(title, x=x, y=y, x_label="epoch", y_label=label, log_y=log_y, x_ticks=ticks)


def _draw(plot: Plot, points: list[Point], style: str) -> None:
    plot.line(points, style)
    plot.dots(points, style, [f"epoch {x:.0f}: {y:.4g}" for x, y in points], radius=2.2)


def headline_section(run: RunFiles) -> Section:
    """MCC with its interval, the verdict on the target, the number of openings of val_test, and leaks."""
    title = "MCC on val_test"
    if run.result is None:
        return Section("headline", title, missing=NOT_EVALUATED)
    plain = run.results.get(TEST_SPLIT, {})
    across = (run.calibration or {}).get("across")
    shown = {
        "result": run.result,
        "threshold": run.threshold,
        "is_calibrated": run.calibration is not None,
        "across": across["column"] if across and across["kept"] else None,
        "at_half": plain if run.threshold != 0.5 else None,
        "least": scale_start([run.result]),
        "openings": run.manifest.get("val_test_openings", run.result.get("openings")),
        "leaks": run.result.get("leaks") or plain.get("leaks", []),
        "unreadable": plain.get("unreadable", 0),
        "metrics": _METRICS,
        "notes": [*run.notes, *_contradiction(run)],
    }
    return Section("headline", title, shown)


def scale_start(results: Sequence[dict[str, Any]]) -> float:
    """Start of an MCC scale that contains all intervals: a multiple of 0.1, at most 0.8."""
    lows: list[float] = [result["mcc_low"] for result in results if result["mcc_low"] is not None]
    return min([0.8, *(math.floor(10 * low) / 10 for low in lows)])


def _contradiction(run: RunFiles) -> list[str]:
    """A warning if results and predictions come from different evaluations."""
    if run.result is None or run.test_rows is None:
        return []
    labels, probabilities = run.test_rows["label"].to_numpy(), run.test_rows["probability"].to_numpy()
    if count_confusion(labels, probabilities, run.threshold).tolist() == [*run.result["confusion"].values()]:
        return []
    sentence = (
        "results.json and predictions.parquet come from different evaluations: their decisions on val_test differ. "
        "Run roadwork evaluate RUN, then roadwork calibrate RUN."
    )
    return [sentence]


def setup_section(run: RunFiles) -> Section:
    """The wiring table, and the versions, seeds and settings to reproduce the run."""
    manifest = run.manifest
    facts = {
        "created": manifest.get("created"),
        "roadwork": manifest.get("roadwork"),
        "git revision": manifest.get("git_revision"),
        "Python": manifest.get("python"),
        **manifest.get("versions", {}),
        **{f"seed ({name})": value for name, value in manifest.get("seeds", {}).items()},
    }
    shown = {
        "wiring": manifest.get("wiring", []),
        "facts": {name: value for name, value in facts.items() if value is not None},
        "configuration": OmegaConf.to_yaml(OmegaConf.structured(run.settings)),
    }
    return Section("setup", "Wiring and setup", shown)


def size_section(run: RunFiles) -> Section | None:
    """The learning curve that `roadwork experiment size` has measured for the run's experiment; None without one."""
    folder = run.folder.parent / "size" / "latest"
    try:
        report = json.loads((folder / "size.json").read_text(encoding="utf-8"))
        plot = base64.b64encode((folder / "size.svg").read_bytes()).decode()
    except (OSError, ValueError):
        return None
    return Section("size", "How many photos", {"report": report, "plot": plot})
