"""The figures of a detector on another dataset: by class, by slice, by pair, and beside those on val_test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.core.progress import track
from roadwork.metrics.classification import CLASS_METRICS, RANKING_METRICS
from roadwork.metrics.intervals import (
    FEW_GROUPS,
    JACKKNIFE,
    count_by_group,
    count_intervals,
    error_rate_interval,
    jackknife_intervals,
)
from roadwork.metrics.results import score_rows
from roadwork.metrics.slices import find_slicings, slice_metrics
from roadwork.settings import Settings

FIGURES = (*CLASS_METRICS, *RANKING_METRICS)
_SLICES_SHOWN = 12  # in a terminal; results.json has all
_TITLES = {"mcc": "MCC", "f1": "F1", "auroc": "AUROC", "auprc": "AUPRC", "false_alarm_rate": "False-alarm rate"}


def score_elsewhere(
    photos: pd.DataFrame | None,
    pairs: pd.DataFrame | None,
    val_test: dict[str, Any] | None,
    settings: Settings,
    threshold: float,
) -> dict[str, Any]:
    """All figures, ready for JSON.

    Args:
        photos: predictions of a dataset's photos; None if it has none.
        pairs: predictions of its pairs, `group` being the pair; None if it has none.
        val_test: figures on `val_test` by name; None if they are not known.
        settings: of the dataset.
        threshold: a probability that reaches it is Roadwork.
    """
    evaluation = settings.evaluation
    options: dict[str, Any] = {"draws": evaluation.bootstrap_draws, "seed": evaluation.seed, "threshold": threshold}
    result: dict[str, Any] = {
        "overall": None,
        "val_test": None if val_test is None else {name: val_test.get(name) for name in FIGURES},
        "slices": [],
        "not_sliced": [],
        "pairs": None if pairs is None else _score_pairs(pairs, options),
    }
    if photos is not None:
        result["overall"] = _compared(score_classes(photos, **options), val_test)
        slicings, result["not_sliced"] = find_slicings(photos, settings)
        for slicing in track(slicings, len(slicings), "Judging slices"):
            parts = slice_metrics(photos, slicing, judge=score_classes, **options).parts
            result["slices"].append({"title": slicing.title, "parts": [_compared(part, val_test) for part in parts]})
    return result


def with_class_metrics(result: dict[str, Any]) -> dict[str, Any]:
    """A result of `results.json` with the metrics that its confusion counts also give."""
    counts = np.array([result["confusion"][cell] for cell in ("tn", "fp", "fn", "tp")])
    return {name: _number(metric(counts)) for name, metric in CLASS_METRICS.items()} | result


def score_classes(rows: pd.DataFrame, *, draws: int, seed: int, threshold: float) -> dict[str, Any]:
    """All figures of rows with both classes; recall or the false-alarm rate alone of rows with one class.

    The intervals of recall and false-alarm rate come from the rows of their class, so errors of the other class do not
    widen them. With few groups, the jackknife replaces the intervals that it can give. Arguments as of
    `roadwork.metrics.results.score_rows`.
    """
    result = score_rows(rows, draws=draws, seed=seed, threshold=threshold, metrics=CLASS_METRICS)
    n_roadwork = int(rows["label"].sum())
    defined = set(FIGURES)
    if n_roadwork in (0, len(rows)):
        defined = {"recall"} if n_roadwork else {"false_alarm_rate"}
    for name in FIGURES:
        if name not in defined:
            result |= {name: None, f"{name}_low": None, f"{name}_high": None}
    for name, label in (("recall", 1), ("false_alarm_rate", 0)):
        if name in defined:
            labels, probabilities, groups = (
                rows.loc[rows["label"] == label, column].to_numpy() for column in ("label", "probability", "group")
            )
            counts, metric = count_by_group(labels, probabilities, groups, threshold), {name: CLASS_METRICS[name]}
            low, high = count_intervals(counts, draws=draws, seed=seed, metrics=metric)[1][name]
            result |= {f"{name}_low": low, f"{name}_high": high}
    if FEW_GROUPS[0] <= result["groups"] <= FEW_GROUPS[1]:
        labels, probabilities, groups = (rows[column].to_numpy() for column in ("label", "probability", "group"))
        intervals = jackknife_intervals(labels, probabilities, groups, threshold, CLASS_METRICS)
        replaced = defined & set(intervals)
        for name in replaced:
            result[f"{name}_low"], result[f"{name}_high"] = intervals[name]
        if replaced:
            result["method"] = JACKKNIFE if replaced == defined else f"{JACKKNIFE}, else {result['method']}"
    return result | {"roadwork": n_roadwork, "errors": result["confusion"]["fp"] + result["confusion"]["fn"]}


def _compared(result: dict[str, Any], val_test: dict[str, Any] | None) -> dict[str, Any]:
    """The result with `change`: each figure less that on `val_test`, None where either is undefined."""
    change = {}
    for name in FIGURES:
        before, now = (val_test or {}).get(name), result[name]
        change[name] = None if before is None or now is None else now - before
    return result | {"change": change}


def _score_pairs(rows: pd.DataFrame, options: dict[str, Any]) -> dict[str, Any]:
    """Balanced accuracy, and the share of pairs whose Roadwork photo scores higher; intervals over pairs."""
    scored = score_rows(rows, metrics=CLASS_METRICS, **options)
    scores = rows.sort_values(["group", "label"])["probability"].to_numpy()
    is_right = scores[1::2] > scores[::2]  # each pair has one photo of None, then one of Roadwork
    none = np.zeros(len(is_right), dtype=np.int64)
    low, high = error_rate_interval(np.stack([is_right, ~is_right, none, none], axis=1))
    return {
        "n": len(is_right),
        **{f"balanced_accuracy{end}": scored[f"balanced_accuracy{end}"] for end in ("", "_low", "_high")},
        "ranked_right": float(is_right.mean()),
        "ranked_right_low": 1 - high,
        "ranked_right_high": 1 - low,
        "n_ranked_right": int(is_right.sum()),
        "confusion": scored["confusion"],
        "method": scored["method"],
    }


def conclude(result: dict[str, Any]) -> str:
    """The result in plain sentences."""
    sentences = []
    overall, pairs = result["overall"], result["pairs"]
    if overall is not None:
        name, title, photos = next(
            each
            for each in (
                ("mcc", "MCC", "photos"),
                ("recall", "Recall", "photos, all with roadwork"),
                ("false_alarm_rate", "False-alarm rate", "photos, none with roadwork"),
            )
            if overall[each[0]] is not None
        )
        change = overall["change"][name]
        against = "val_test is not known"
        if change is not None:
            against = f"{abs(change):.2f} {'below' if change < 0 else 'above'} val_test"
        sentences.append(f"{title} {show_figure(overall, name)} on {overall['n']:,} {photos}, {against}.")
    if pairs is not None:
        sentences.append(
            f"Pairs: {pairs['n_ranked_right']:,} of {pairs['n']:,} ranked rightly "
            f"({pairs['ranked_right_low']:.2f} to {pairs['ranked_right_high']:.2f}), balanced accuracy "
            f"{show_figure(pairs, 'balanced_accuracy')}."
        )
    if not result["seen"]["is_checked"]:
        sentences.append("Rows that training has seen were not excluded.")
    return " ".join(sentences)


def show_figure(result: dict[str, Any], name: str) -> str:
    """A figure with its interval, such as `0.33 (0.20 to 0.45)`; `-` where it is undefined."""
    value, low, high = (result[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "-"
    return f"{value:.2f}" if low is None else f"{value:.2f} ({low:.2f} to {high:.2f})"


def _number(value: np.ndarray) -> float | None:
    return None if np.isnan(value) else float(value)


def format_elsewhere(result: dict[str, Any]) -> Group:
    """The result for a terminal of 80 columns; its sentence comes last."""
    overall, pairs = result["overall"], result["pairs"]
    sizes = [] if overall is None else [f"{overall['n']:,} photos in {overall['groups']:,} groups"]
    sizes += [] if pairs is None else [f"{pairs['n']:,} pairs"]
    calibrated = "" if result["is_calibrated"] else " (not calibrated)"
    title = Text.assemble(
        (result["dataset"], "bold"), f": {' and '.join(sizes)}, decided at {result['threshold']:.4g}{calibrated}"
    )
    lines: list[Text | Table] = [title, *map(Text, _describe_excluded(result))]
    if overall is not None:
        lines.append(_figures_table(result))
        lines += [_slice_table(slicing) for slicing in result["slices"]]
    if result["not_sliced"]:
        lines.append(Text(f"Not sliced by: {', '.join(result['not_sliced'])}."))
    lines += map(Text, result["familiarity"]["sentences"])
    return Group(*lines, Text.assemble(("Result  ", "bold"), result["sentence"]))


def _describe_excluded(result: dict[str, Any]) -> list[str]:
    seen, lines = result["seen"], []
    if seen["n"]:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in seen["by_reason"].items())
        names = ", ".join(seen["examples"])
        lines.append(f"Excluded as seen in training: {seen['n']:,} ({reasons}), such as {names}.")
    elif seen["is_checked"]:
        lines.append("No photo was seen in training.")
    if seen["n_other_photos"]:
        lines.append(f"Kept: {seen['n_other_photos']:,} that share an id with a training photo but look different.")
    lines += [f"Not checked: {sentence}" for sentence in seen["not_checked"]]
    if result["unreadable"]:
        lines.append(f"Unreadable: {result['unreadable']:,}.")
    return lines


def _figures_table(result: dict[str, Any]) -> Table:
    overall, val_test = result["overall"], result["val_test"] or {}
    has_ranking = overall["auroc"] is None or overall["auroc_low"] is not None
    too_few = "" if has_ranking else " (too few errors for AUROC and AUPRC)"
    table = Table(box=box.SIMPLE_HEAD, caption=f"  intervals: {overall['method']}{too_few}", caption_justify="left")
    table.add_column("figure")
    for header in ("here", "95 % interval", "val_test", "change"):
        table.add_column(header, justify="right")
    for name in FIGURES:
        if overall[name] is not None:
            low, high = overall[f"{name}_low"], overall[f"{name}_high"]
            interval = "-" if low is None else f"{low:.4f} to {high:.4f}"
            change = overall["change"][name]
            table.add_row(
                figure_title(name), f"{overall[name]:.4f}", interval, _show(val_test.get(name), ".4f"),
                _show(change, "+.4f"), style="bold" if name == "mcc" else None,
            )  # fmt: skip
    return table


def figure_title(name: str) -> str:
    """A figure's name for readers."""
    return _TITLES.get(name, name.replace("_", " ").capitalize())


def _slice_table(slicing: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(slicing["title"], overflow="fold", max_width=20)
    for header in ("photos", "MCC", "95 % interval", "change", "recall", "false\nalarms"):
        table.add_column(header, justify="right")
    parts = slicing["parts"]  # the worst first
    for part in parts[:_SLICES_SHOWN]:
        interval = "-" if part["mcc_low"] is None else f"{part['mcc_low']:.2f} to {part['mcc_high']:.2f}"
        table.add_row(
            part["name"], f"{part['n']:,}", _show(part["mcc"], ".2f"), interval, _show(part["change"]["mcc"], "+.2f"),
            _show(part["recall"], ".2f"), _show(part["false_alarm_rate"], ".2f"),
            style="dim" if part["small"] else None,
        )  # fmt: skip
    if len(parts) > _SLICES_SHOWN:
        table.caption = f"  and {len(parts) - _SLICES_SHOWN:,} more in results.json"
        table.caption_justify = "left"
    return table


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
