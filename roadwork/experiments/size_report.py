"""Analyses a size experiment: the learning curve, how many photos the target takes, and what wrong labels cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from roadwork.core.errors import ConfigError, DataError
from roadwork.experiments.comparison import ReportTable, error_bars, new_figure, write_report_files
from roadwork.experiments.label_audit import audit_labels
from roadwork.experiments.learning_curve import (
    Prediction,
    draw_errors,
    label_ceiling,
    label_errors_allowed,
    predict_curve,
)
from roadwork.experiments.plan import Fit, Plan, count_epoch_steps
from roadwork.metrics.classification import mcc
from roadwork.metrics.intervals import Interval, count_intervals, count_paired, percentile_interval
from roadwork.metrics.predictions import read_predictions
from roadwork.runs.run import Run
from roadwork.settings.sampling import TRAIN_SPLIT

STEM = "size"
MIN_FITTED = 5  # the check fits a curve of three parameters to all sizes but the largest
MIN_MCC = 0.3  # near chance, errors do not follow a power law
_AHEAD = (2, 4, 10)
_FAR = 10


def read_label_error(given: str | None, target_mcc: float) -> float | None:
    """The share of wrong labels: a number, or the estimate of the audit of a cross-validation's folder.

    Raises:
        ConfigError: it is neither, or not below 0.5.
        RoadworkError: the folder's predictions are damaged, or cleanlab is not installed.
    """
    if given is None:
        return None
    predictions = Path(given) / "oof_predictions.parquet"
    try:
        if predictions.is_file():
            share = audit_labels(read_predictions(predictions), target_mcc).estimated_share
        else:
            share = float(given)
    except ValueError:
        share = math.nan
    if not 0 <= share < 0.5:
        raise ConfigError(
            f"--label-error {given} is {share:.3g}. Give a share from 0 to below 0.5, such as 0.01, or the folder of a "
            "`roadwork experiment cv`, outputs/<experiment>/cv/<time>."
        )
    return share


def analyse_sizes(
    photos: np.ndarray, frames: Sequence[Sequence[pd.DataFrame]], *, target: float, wrong: float | None, draws: int,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """All figures of the report, ready for JSON; an infinite number of photos is null.

    Args:
        photos: (K,) training photos of each size, in ascending order.
        frames: K sizes of S seeds' predictions of the same held-out rows.
        target: the MCC to reach.
        wrong: share of wrong labels; None if unknown.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        DataError: the fits were evaluated on different rows.
    """
    first = frames[0][0]
    for frame in (frame for of_size in frames for frame in of_size):
        if not frame[["id", "label", "group"]].equals(first[["id", "label", "group"]]):
            raise DataError("The fits were evaluated on different rows. Restore the images and start a new experiment.")
    labels, groups = first["label"].to_numpy(), first["group"].to_numpy()
    probabilities = np.array([[frame["probability"] for frame in of_size] for of_size in frames])
    counts = count_paired(labels, probabilities, groups, np.zeros(len(labels), dtype=np.int64), 1)[:, 0]
    errors = 1 - mcc(counts.sum(axis=0))  # (K, S)
    by_size = counts.sum(axis=2).swapaxes(0, 1)  # (K, G, 4)
    fitted = errors.mean(axis=1) <= 1 - MIN_MCC
    report: dict[str, Any] = {
        "rows": len(first),
        "groups": first["group"].nunique(),
        "roadwork_share": float(labels.mean()),
        "seeds": errors.shape[1],
        "target": target,
        "sizes": [
            {
                "photos": float(n),
                "mcc": 1 - float(own.mean()),
                **dict(zip(("low", "high"), count_intervals(of_size, draws=draws, seed=seed)[1]["mcc"], strict=True)),
                "by_seed": (1 - own).tolist(),
                "fitted": bool(is_fitted),
            }
            for n, own, of_size, is_fitted in zip(photos, errors, by_size, fitted, strict=True)
        ],
        "curve": None,
        "labels": None if wrong is None else _weigh_labels(1 - errors[-1].mean(), wrong, labels.mean(), target),
    }
    if fitted.sum() < MIN_FITTED:
        return report
    least = 1 / len(first)
    drawn = draw_errors(counts[:, fitted], draws=draws, seed=seed)
    curve = predict_curve(photos[fitted], errors[fitted], drawn, seed=seed, least=least)
    shown = curve.fitted
    report["curve"] = {
        "a": float(shown.a[0]),
        "b": float(shown.b[0] * shown.unit ** shown.c[0]),
        "c": float(shown.c[0]),
        "asymptote": _as_mcc(shown.a[0], percentile_interval(curve.drawn.a)),
        "at_sizes": (1 - shown.at(photos)[0]).tolist(),
        "beyond": [
            {"photos": factor * float(photos[-1]), **_as_mcc(*curve.error_at(factor * photos[-1]))} for factor in _AHEAD
        ],
        "needed": _needed(curve, 1 - target),
    }
    if report["labels"] and report["labels"]["ceiling"]:
        report["curve"]["needed_with_correct_labels"] = _needed(curve, 1 - target * report["labels"]["ceiling"])
    report["check"] = _hold_back(photos[fitted], errors[fitted], draws=draws, seed=seed, least=least)
    return report


def _hold_back(photos: np.ndarray, errors: np.ndarray, *, draws: int, seed: int, least: float) -> dict[str, Any]:
    """Predicts the largest size from the others. Both are measured on the same held-out rows, so none are drawn."""
    rest = errors[:-1]
    curve = predict_curve(photos[:-1], rest, np.broadcast_to(rest, (draws, *rest.shape)), seed=seed, least=least)
    measured = errors[-1]
    predicted, interval = curve.measured_at(photos[-1], len(measured))
    _, (low, high) = curve.measured_at(photos[-1], 1)
    return {
        "photos": float(photos[-1]),
        **_as_mcc(predicted, interval),
        "measured": 1 - float(measured.mean()),
        "inside": bool(interval[0] <= measured.mean() <= interval[1]),
        "seeds_inside": int(((low <= measured) & (measured <= high)).sum()),
    }


def _as_mcc(error: float, interval: Interval) -> dict[str, float]:
    return {"mcc": 1 - float(error), "low": 1 - interval[1], "high": 1 - interval[0]}


def _needed(curve: Prediction, error: float) -> dict[str, float | None]:
    value, (low, high) = curve.photos_for(error)
    found = {"photos": value, "low": low, "high": high}
    return {key: n if math.isfinite(n) else None for key, n in found.items()}


def _weigh_labels(measured: float, wrong: float, share: float, target: float) -> dict[str, float | None]:
    ceiling = label_ceiling(wrong, share)
    is_known = not math.isnan(ceiling)
    return {
        "wrong": wrong,
        "ceiling": ceiling if is_known else None,
        "measured": measured,
        "corrected": min(1.0, measured / ceiling) if is_known else None,
        "allowed": label_errors_allowed(target, share),
    }


def report_sizes(plan: Plan, command: str, wrong: float | None = None) -> dict[str, Any]:
    """Analyses the stored predictions of all fits; writes `size.json`, `.md`, `.svg` and the manifest.

    Args:
        plan: all its fits are finished.
        command: reproduces the report.
        wrong: share of wrong labels; None if unknown.

    Returns:
        What `size.json` holds.

    Raises:
        RoadworkError: a stored file is damaged, or matplotlib is not installed.
    """
    evaluation, model = plan.settings.evaluation, plan.settings.model
    fits = [[fit for fit in plan.fits if fit.condition == name] for name in plan.conditions]
    photos = np.array([np.mean([len(fit.splits.ids[TRAIN_SPLIT]) for fit in own]) for own in fits])
    report = {
        "command": command,
        "model": Path(model.name).name if Path(model.name).is_dir() else model.name,  # the report names no local path
        "img_size": plan.settings.data.img_size,
        "options": dict(plan.options),
        **analyse_sizes(
            photos,
            [[fit.read_predictions() for fit in own] for own in fits],
            target=evaluation.target_mcc,
            wrong=wrong,
            draws=evaluation.bootstrap_draws,
            seed=evaluation.seed,
        ),
    }
    for size, own in zip(report["sizes"], fits, strict=True):
        size["groups"] = float(np.mean([_count_groups(plan, fit) for fit in own]))
        steps = [fit.cfg.training.epochs * count_epoch_steps(fit.splits, plan.settings) for fit in own]
        size["steps"] = float(np.mean(steps))
    report["sentences"] = _sentences(report)
    write_report_files(plan.folder, STEM, report, _markdown(report), draw_sizes, plot="svg")
    Run(plan.folder).write_manifest(data_fingerprint=plan.dataset.table.fingerprint(), command=command)
    return report


def _count_groups(plan: Plan, fit: Fit) -> int:
    return len(set(plan.dataset.groups.names[np.isin(plan.dataset.table.ids, fit.splits.ids[TRAIN_SPLIT])]))


def draw_sizes(report: dict[str, Any], path: Path) -> None:
    """Writes an SVG: the error by number of photos on logarithmic axes, with the curve and its interval.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(8, 5)
    axes = figure.subplots()
    sizes, curve = report["sizes"], report["curve"]
    least = 0.5 / report["rows"]  # a logarithmic axis has no 0
    photos = [size["photos"] for size in sizes]
    shown = [
        # The interval is that of the pooled seeds, so the mean over seeds can lie outside.
        {"value": max(1 - mean, least), "low": max(1 - max(high, mean), least), "high": max(1 - min(low, mean), least)}
        for mean, low, high in ((size["mcc"], size["low"], size["high"]) for size in sizes)
    ]
    axes.errorbar(
        photos, [error["value"] for error in shown], yerr=error_bars(shown), fmt="o", color="#0072B2", capsize=4,
        label="measured, 95 % interval",
    )  # fmt: skip
    for size in sizes:
        axes.plot([size["photos"]] * len(size["by_seed"]), [max(1 - m, least) for m in size["by_seed"]], "_",
                  color="#0072B2", alpha=0.6)  # fmt: skip
    if curve:
        grid = np.geomspace(photos[0], _AHEAD[-1] * photos[-1], 100)
        axes.plot(grid, np.maximum(curve["a"] + curve["b"] * grid ** -curve["c"], least), color="black", label="curve")
        ahead = [{"photos": photos[-1], **sizes[-1]}, *curve["beyond"]]
        axes.fill_between(
            [point["photos"] for point in ahead], [max(1 - point["high"], least) for point in ahead],
            [max(1 - point["low"], least) for point in ahead], color="#999999", alpha=0.4, linewidth=0,
            label="predicted, 95 % interval",
        )  # fmt: skip
    axes.axhline(1 - report["target"], color="#D55E00", linestyle="--", label=f"target: MCC {report['target']:g}")
    if report["labels"] and report["labels"]["ceiling"] and report["labels"]["ceiling"] < 1:
        axes.axhline(1 - report["labels"]["ceiling"], color="#009E73", linestyle=":", label="ceiling of wrong labels")
    axes.set(xscale="log", yscale="log", xlabel="training photos", ylabel="1 - MCC on the held-out photos")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=9)
    figure.savefig(path, format="svg", metadata={"Date": None})


def format_report(report: dict[str, Any]) -> Group:
    """The report for a terminal."""
    return Group(Text(_summary(report)), _table(report).as_rich(), *(Text(line) for line in report["sentences"]))


def _markdown(report: dict[str, Any]) -> str:
    lines = ["# MCC by number of training photos", "", f"Made by `{report['command']}`.", "", _summary(report), ""]
    lines += [_table(report).as_markdown(), *(f"{line}\n" for line in report["sentences"])]
    return "\n".join([*lines, f"![1 - MCC by number of training photos]({STEM}.svg)", ""])


def _summary(report: dict[str, Any]) -> str:
    return (
        f"{report['rows']:,} held-out rows in {report['groups']:,} groups, the same for all fits; val_test is not "
        f"among them. {len(report['sizes'])} sizes, {report['seeds']} seeds each: {report['model']}, "
        f"{report['img_size']} px."
    )


def _table(report: dict[str, Any]) -> ReportTable:
    header = ("photos", "groups", "steps", "MCC", "95 % interval", "SD", "curve")
    curve = report["curve"]
    at_sizes = curve["at_sizes"] if curve else [None] * len(report["sizes"])
    rows = [
        (
            f"{size['photos']:,.0f}",
            f"{size['groups']:,.0f}",
            f"{size['steps']:,.0f}",
            f"{size['mcc']:.4f}",
            _interval(size),
            f"{np.std(size['by_seed'], ddof=1):.4f}",
            "" if value is None else f"{value:.4f}" if size["fitted"] else "not fitted",
        )
        for size, value in zip(report["sizes"], at_sizes, strict=True)
    ]
    rows += [
        (f"{point['photos']:,.0f}", "", "", "", _interval(point), "", f"{point['mcc']:.4f}")
        for point in (curve["beyond"] if curve else [])
    ]
    note = (
        "MCC: mean over seeds, last weights, threshold 0.5; rows without one are predicted. SD: between seeds, each "
        "with its own nested sets of whole groups. Intervals: by held-out group; the predicted ones include the noise "
        "of training."
    )
    return ReportTable("MCC by number of training photos", header, rows, note)


def _interval(figures: dict[str, Any]) -> str:
    return f"{figures['low']:.4f} to {figures['high']:.4f}"


def _sentences(report: dict[str, Any]) -> list[str]:
    """What the figures say, one remark each."""
    curve, labels, target = report["curve"], report["labels"], report["target"]
    lines = []
    if curve is None:
        n_fitted = sum(size["fitted"] for size in report["sizes"])
        lines.append(
            f"No curve was fitted: it needs {MIN_FITTED} sizes with an MCC of at least {MIN_MCC}, and {n_fitted} have "
            "one. Use more photos, or more steps (training.epochs)."
        )
    else:
        check, asymptote = report["check"], curve["asymptote"]
        lines.append(
            f"Curve: 1 - MCC = {curve['a']:.3g} + {curve['b']:.3g} n^-{curve['c']:.2f}. With unlimited photos the MCC "
            f"is {asymptote['mcc']:.4f} ({_interval(asymptote)})."
        )
        verdict = "inside" if check["inside"] else "OUTSIDE, so do not rely on the predictions"
        singles = f"{check['seeds_inside']} of {report['seeds']} seeds lie inside the wider interval of a single seed."
        lines.append(
            f"Check: fitted without the largest size, the curve predicts {check['mcc']:.4f} ({_interval(check)}) at "
            f"{check['photos']:,.0f} photos. The measured {check['measured']:.4f} lies {verdict}. {singles}"
        )
        if labels and labels["ceiling"] and labels["ceiling"] < target:
            lines.append(f"An MCC of {target:g} is not reachable with these labels: ceiling {labels['ceiling']:.4f}.")
        else:
            lines.append(_explain_needed(curve["needed"], report, f"An MCC of {target:g}"))
    if labels is None:
        return lines
    ceiling = labels["ceiling"]
    if ceiling is None:
        lines.append(
            f"With {labels['wrong']:.2%} wrong labels and {report['roadwork_share']:.2%} Roadwork, all labels of one "
            "class could be wrong, so there is no ceiling. Check --label-error."
        )
        return lines
    lines.append(
        f"Labels: with {labels['wrong']:.2%} wrong, a perfect detector measures an MCC of {ceiling:.4f}. An MCC of "
        f"{target:g} allows {labels['allowed']:.2%}. With all held-out labels corrected, the "
        f"{labels['measured']:.4f} of the largest size would be {labels['corrected']:.4f}."
    )
    if labels["measured"] > ceiling:
        lines.append("The measured MCC is above this ceiling, so fewer labels are wrong. Check --label-error.")
    if labels["wrong"] > labels["allowed"]:
        rows = math.ceil((labels["wrong"] - labels["allowed"]) * report["rows"])
        lines.append(f"To measure {target:g}, correct at least {rows:,} labels of {report['rows']:,} held-out rows.")
    if curve:
        what = f"With all held-out labels corrected, an MCC of {target:g}"
        lines.append(_explain_needed(curve["needed_with_correct_labels"], report, what))
    return lines


def _explain_needed(needed: dict[str, Any], report: dict[str, Any], what: str) -> str:
    low, high = _show_photos(needed["low"]), _show_photos(needed["high"])
    smallest, largest = (report["sizes"][end]["photos"] for end in (0, -1))
    if needed["photos"] is not None and needed["photos"] < smallest:
        return f"{what} takes fewer training photos than the smallest size."
    if needed["photos"] is None:
        least = "" if needed["low"] is None else f"; the 95 % interval starts at {low} photos"
        return f"{what} is not reachable by this curve: asymptote {report['curve']['asymptote']['mcc']:.4f}{least}."
    upper = ", no upper end" if needed["high"] is None else f" to {high}"
    line = f"{what} takes about {_show_photos(needed['photos'])} training photos (95 % interval: {low}{upper})."
    if needed["photos"] > _FAR * largest:
        line += f" This is more than {_FAR} times the largest size: a guess, not a plan."
    return line


def _show_photos(photos: float | None) -> str:
    """Two significant digits, since the interval is wide."""
    return "unlimited" if photos is None else f"{float(f'{max(photos, 1):.2g}'):,.0f}"
