"""Metrics of a predictions table with their intervals: overall, by distance, and compared with a target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.core.errors import ConfigError, DataError
from roadwork.metrics.classification import COUNT_METRICS, CountMetric, mcc, score_all
from roadwork.metrics.decision import DEFAULT_THRESHOLD, decide
from roadwork.metrics.intervals import (
    BOOTSTRAP,
    Interval,
    count_by_group,
    count_intervals,
    effective_groups,
    groups_to_show,
    ranking_intervals,
)
from roadwork.settings import Settings

SHOWN, EXCLUDED, UNDECIDED = "shown", "excluded", "not decided by this set"
_UNDEFINED: Interval = (math.nan, math.nan)
_MEANINGS = {
    "mcc": "1 perfect, 0 no better than chance",
    "accuracy": "share of correct decisions",
    "precision": "correct among detected Roadwork",
    "recall": "detected among true Roadwork",
    "f1": "harmonic mean of the two above",
    "auroc": "area under the ROC curve",
    "auprc": "average precision",
}


def evaluate_predictions(
    frame: pd.DataFrame,
    *,
    target_mcc: float,
    draws: int,
    seed: int,
    brackets: Sequence[tuple[float, float]],
    threshold: float = DEFAULT_THRESHOLD,
) -> dict[str, Any]:
    """Metrics of one split, ready for JSON: None if a metric or an interval is undefined.

    Args:
        frame: The split's rows of a predictions table; decisions use the column `probability`.
        target_mcc: The target MCC, above 0 and at most 1.
        draws: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        brackets: Half-open ranges [from, to) of kilometres to the nearest deployment centre.
        threshold: `probability >= threshold` is Roadwork.

    Raises:
        ConfigError: The target is out of range.
        DataError: There are no rows.
    """
    if not 0 < target_mcc <= 1:
        raise ConfigError(f"evaluation.target_mcc is {target_mcc}; it must be above 0 and at most 1.")
    if frame.empty:
        raise DataError("There are no predictions to evaluate. Check that splits.json has rows for this split.")
    result = score_rows(frame, draws=draws, seed=seed, threshold=threshold)
    labels, probabilities, groups = (frame[name].to_numpy() for name in ("label", "probability", "group"))
    counts = count_by_group(labels, probabilities, groups, threshold)
    result["by_distance"] = [
        {"from_km": _json(start), "to_km": _json(end)}
        | evaluate_slice(rows, draws=draws, seed=seed, threshold=threshold)
        for start, end, rows in _cut_by_distance(frame, brackets)
    ]
    result["target"] = _compare_with_target(result, counts, target_mcc)
    return result


def score_rows(
    frame: pd.DataFrame,
    *,
    draws: int,
    seed: int,
    threshold: float = DEFAULT_THRESHOLD,
    metrics: Mapping[str, CountMetric] = COUNT_METRICS,
) -> dict[str, Any]:
    """Every metric with its interval, rows, groups and confusion counts, ready for JSON; None where undefined.

    Args:
        frame: Rows of a predictions table, at least one, decided by their `probability`.
        draws: Bootstrap samples.
        seed: Of the bootstrap.
        threshold: A probability that reaches it is Roadwork.
        metrics: Count metrics by name; AUROC and AUPRC come on top.
    """
    labels, probabilities, groups = (frame[name].to_numpy() for name in ("label", "probability", "group"))
    counts = count_by_group(labels, probabilities, groups, threshold)
    figures = score_all(labels, probabilities, threshold, metrics)
    method, intervals = count_intervals(counts, draws=draws, seed=seed, metrics=metrics)
    if method == BOOTSTRAP:
        intervals |= ranking_intervals(labels, probabilities, groups, draws=draws, seed=seed)
    if len(np.unique(labels)) == 1:
        # The MCC is undefined; scikit-learn's 0 would look like a useless detector.
        figures["mcc"], intervals["mcc"] = math.nan, _UNDEFINED
    result: dict[str, Any] = {}
    for name, value in figures.items():
        low, high = intervals.get(name, _UNDEFINED)
        result |= {name: _json(value), f"{name}_low": _json(low), f"{name}_high": _json(high)}
    confusion = dict(zip(("tn", "fp", "fn", "tp"), counts.sum(axis=0).tolist(), strict=True))
    return result | {"n": len(frame), "groups": len(counts), "confusion": confusion, "method": method}


def evaluate_for(settings: Settings, frame: pd.DataFrame, threshold: float = DEFAULT_THRESHOLD) -> dict[str, Any]:
    """`evaluate_predictions` with the target, the bootstrap and the distance brackets of a run's settings."""
    return evaluate_predictions(
        frame,
        target_mcc=settings.evaluation.target_mcc,
        draws=settings.evaluation.bootstrap_draws,
        seed=settings.evaluation.seed,
        brackets=[(low, high) for low, high, _ in settings.data.gps_sampling.weight_brackets],
        threshold=threshold,
    )


def errors_allowed(nones: int, roadworks: int, target_mcc: float) -> tuple[int, int]:
    """The most errors at which the MCC still reaches the target: spread evenly, and all in the worse class."""
    errors = np.arange(2 * min(nones, roadworks) + 1)
    fewer, more = errors // 2, errors - errors // 2
    one_class = errors[: min(nones, roadworks) + 1]

    def count_kept(fp: np.ndarray, fn: np.ndarray) -> int:
        counts = np.stack([nones - fp, fp, fn, roadworks - fn], axis=-1)
        return int((mcc(counts) >= target_mcc - 1e-12).sum()) - 1

    evenly = min(count_kept(fewer, more), count_kept(more, fewer))
    at_worst = min(count_kept(one_class, 0 * one_class), count_kept(0 * one_class, one_class))
    return evenly, at_worst


def _compare_with_target(result: dict[str, Any], counts: np.ndarray, target_mcc: float) -> dict[str, Any]:
    tn, fp, fn, tp = counts.sum(axis=0).tolist()
    low, high = result["mcc_low"], result["mcc_high"]
    target: dict[str, Any] = {"mcc": target_mcc, "errors": fp + fn}
    if low is None:
        sentence = "The MCC is undefined: the split has one class only."
        return target | {
            "verdict": UNDECIDED,
            "errors_allowed": None,
            "errors_allowed_in_one_class": None,
            "error_free_groups_needed": None,
            "sentence": sentence,
        }
    verdict = SHOWN if low >= target_mcc else EXCLUDED if high < target_mcc else UNDECIDED
    evenly, at_worst = errors_allowed(tn + fp, fn + tp, target_mcc)
    # Groups of unequal size carry less information than equally many groups of equal size.
    needed = groups_to_show(target_mcc, (fn + tp) / counts.sum()) * len(counts) / effective_groups(counts.sum(axis=1))
    groups = math.ceil(needed) if math.isfinite(needed) else "inf"
    room = (
        f"at most {evenly:,} errors if they are spread evenly over the classes, {at_worst:,} if all are in one class"
        if evenly
        else "no error"
    )
    conclusion = {SHOWN: "is reached", EXCLUDED: "is not reached", UNDECIDED: "can be neither confirmed nor excluded"}
    sentence = (
        f"An MCC of {target_mcc:g} {conclusion[verdict]}: the 95 % interval is {low:.4f} to {high:.4f}. "
        f"With {result['n']:,} rows ({fn + tp:,} Roadwork) this MCC allows {room}. The model made {fp + fn:,}."
    )
    if verdict != SHOWN and groups == "inf":
        sentence += " No test set can confirm a perfect MCC."
    elif verdict != SHOWN:
        sentence += (
            f" To confirm it, a test split needs at least {groups:,} groups like these without an error; this one has "
            f"{len(counts):,}."
        )
    return target | {
        "verdict": verdict,
        "errors_allowed": evenly,
        "errors_allowed_in_one_class": at_worst,
        "error_free_groups_needed": groups,
        "sentence": sentence,
    }


def _cut_by_distance(
    frame: pd.DataFrame, brackets: Sequence[tuple[float, float]]
) -> list[tuple[float | None, float | None, pd.DataFrame]]:
    distance = frame["distance_km"]
    cuts: list[tuple[float | None, float | None, pd.DataFrame]] = [
        (start, end, frame[(distance >= start) & (distance < end)]) for start, end in brackets
    ]
    without_gps = frame[distance.isna()]
    return cuts if without_gps.empty else [*cuts, (None, None, without_gps)]


def evaluate_slice(
    rows: pd.DataFrame, *, draws: int, seed: int, threshold: float = DEFAULT_THRESHOLD
) -> dict[str, Any]:
    """Number of rows, groups and errors, and the MCC with its interval, for a part of a split; ready for JSON.

    MCC and interval are None if the part has only one class, or no rows.

    Args:
        rows: Rows of a predictions table; decisions use the column `probability`.
        draws: Number of bootstrap samples.
        seed: Seed of the bootstrap.
        threshold: `probability >= threshold` is Roadwork.
    """
    labels, probabilities = rows["label"].to_numpy(), rows["probability"].to_numpy()
    sizes: dict[str, Any] = {"n": len(rows), "groups": rows["group"].nunique()}
    if rows["label"].nunique() < 2:
        errors = int((labels != decide(probabilities, threshold)).sum())
        return sizes | {"errors": errors, "mcc": None, "mcc_low": None, "mcc_high": None, "method": None}
    counts = count_by_group(labels, probabilities, rows["group"].to_numpy(), threshold)
    total = counts.sum(axis=0)
    method, intervals = count_intervals(counts, draws=draws, seed=seed)
    low, high = intervals["mcc"]
    errors = int(total[1] + total[2])
    return sizes | {
        "errors": errors, "mcc": _json(float(mcc(total))), "mcc_low": low, "mcc_high": high, "method": method
    }  # fmt: skip


def _json(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else "inf"


def format_results(name: str, result: dict[str, Any]) -> Group:
    """A split's result for a terminal of 80 columns: metrics, confusion matrix, distances and the verdict."""
    title = Text.assemble((name, "bold"), f": {result['n']:,} rows in {result['groups']:,} groups")
    verdict = Text.assemble(("Verdict  ", "bold"), result["target"]["sentence"])
    leaks = [Text.assemble(("Leaks  ", "bold red"), leak) for leak in result.get("leaks", [])]
    tables = (_figures_table(result), _confusion_table(result["confusion"]), _distance_table(result))
    return Group(title, *tables, *leaks, verdict)


def _figures_table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=f"  intervals: {result['method']}", caption_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="center")
    table.add_column("meaning", style="dim")
    for name, meaning in _MEANINGS.items():
        label = name.capitalize() if name in ("accuracy", "precision", "recall") else name.upper()
        interval = _show_interval(result[f"{name}_low"], result[f"{name}_high"])
        table.add_row(label, _show(result[name]), interval, meaning, style="bold" if name == "mcc" else None)
    if result["method"] != BOOTSTRAP:
        table.caption = f"{table.caption} (too few errors for AUROC and AUPRC)"
    return table


def _confusion_table(confusion: dict[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("true label")
    table.add_column("predicted None", justify="right")
    table.add_column("predicted Roadwork", justify="right")
    table.add_row("None", f"{confusion['tn']:,}", f"{confusion['fp']:,}")
    table.add_row("Roadwork", f"{confusion['fn']:,}", f"{confusion['tp']:,}")
    return table


def _distance_table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("km to deployment")
    for header in ("rows", "groups", "errors", "MCC"):
        table.add_column(header, justify="right")
    table.add_column("95 % interval", justify="center")
    for row in result["by_distance"]:
        interval = _show_interval(row["mcc_low"], row["mcc_high"])
        sizes = (f"{row[key]:,}" for key in ("n", "groups", "errors"))
        table.add_row(_show_range(row["from_km"], row["to_km"]), *sizes, _show(row["mcc"]), interval)
    return table


def _show_range(start: float | None, end: float | str | None) -> str:
    if start is None:
        return "unknown (no GPS)"
    return f"{start:g} or more" if end == "inf" else f"{start:g} to {end:g}"


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _show_interval(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{_show(low)} to {_show(high)}"
