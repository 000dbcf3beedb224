"""Analyses an ablation and writes its report.

The MCC of a condition is the mean over fits; each fit decides at 0.5 on the fold that it did not train on. Intervals
come from a bootstrap over groups and fits together (`bootstrap_mcc`), with the same draws for all conditions.

With few fits, a bootstrap underestimates the noise of training. A verdict therefore also needs Student's t test over
fits, and p is the larger of the two. Neither accounts for the overlap of the fits' training rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text
from scipy import stats

from roadwork.core.errors import DataError, WiringError
from roadwork.experiments.ablation_fit import FACTS
from roadwork.experiments.comparison import (
    MIN_DIFFERING_GROUPS,
    ReportTable,
    draw_differences,
    format_difference,
    label_differences,
    new_figure,
    summarise,
    write_report_files,
)
from roadwork.experiments.plan import Fit, Plan
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, effective_groups
from roadwork.runs.run import Run

BETTER, WORSE, NOT_SIGNIFICANT = "better", "worse", "not significantly different"
MIN_FITS = 5
_LEVEL = 0.05

# Colours by Okabe and Ito, distinct with all common kinds of colour vision; the markers also work without colour.
_STYLES = {BETTER: ("#0072B2", "^"), WORSE: ("#D55E00", "v")}
_DEFAULT_STYLE = ("#555555", "o")
STEM = "ablation"


def analyse(
    conditions: Sequence[str],
    frames: Sequence[Sequence[pd.DataFrame]],
    facts: Sequence[Sequence[dict[str, Any]]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """All metrics of the report, ready for JSON.

    Args:
        conditions: A names, the baseline first.
        frames: F fits of A predictions tables each; all tables of a fit hold the same rows.
        facts: F fits of A times the content of `fit.json`.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        DataError: the conditions of a fit were evaluated on different rows.
        WiringError: they made different numbers of steps, or one predicts exactly what the baseline does.
    """
    rows = pd.concat([_check_paired(conditions, of_fit) for of_fit in frames], ignore_index=True)
    _check_steps(conditions, facts)
    labels, groups = rows["label"].to_numpy(), rows["group"].to_numpy()
    fits = np.repeat(np.arange(len(frames)), [len(of_fit[0]) for of_fit in frames])
    probabilities = np.stack(
        [np.concatenate([frame["probability"].to_numpy() for frame in own]) for own in zip(*frames, strict=True)]
    )
    _check_not_the_same(conditions, probabilities)
    counts = count_paired(labels, probabilities[None], groups, fits, len(frames))[:, :, 0][:, None]  # (G, 1, F, A, 4)
    by_fit = mcc(counts.sum(axis=0))[0]  # (F, A)
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=draws, seed=seed)[:, 0]  # (draws, A)
    _, codes = np.unique(groups, return_inverse=True)
    result: dict[str, dict[str, Any]] = {
        condition: {
            "mcc": summarise(by_fit[:, number], drawn[:, number]),
            **{key: float(np.mean([of_fit[number][key] for of_fit in facts])) for key in facts[0][0]},
        }
        for number, condition in enumerate(conditions)
    }
    for number, condition in enumerate(conditions[1:], start=1):
        gaps, drawn_gaps = by_fit[:, number] - by_fit[:, 0], drawn[:, number] - drawn[:, 0]
        differs = decide(probabilities[number]) != decide(probabilities[0])
        result[condition] |= {
            "difference": summarise(gaps, drawn_gaps) | {"p": max(bootstrap_p(drawn_gaps), student_p(gaps))},
            "differing_groups": effective_groups(np.bincount(codes, differs)),
        }
    compared = [result[condition] for condition in conditions[1:]]
    for metrics, p_holm in zip(compared, holm([own["difference"]["p"] for own in compared]), strict=True):
        metrics["difference"]["p_holm"] = p_holm
        metrics["verdict"] = judge(metrics["difference"], metrics["differing_groups"], len(frames))
    return {
        "rows": int(rows["id"].nunique()),
        "groups": int(codes.max() + 1),
        "fits": len(frames),
        "comparisons": len(compared),
        "arms": result,
    }


def judge(difference: dict[str, Any], differing_groups: float, n_fits: int) -> str:
    """The verdict on a difference: better or worse only if it stays significant after Holm's correction."""
    if n_fits < MIN_FITS:
        return f"{NOT_SIGNIFICANT} (fewer than {MIN_FITS} fits)"
    if differing_groups < MIN_DIFFERING_GROUPS:
        return f"{NOT_SIGNIFICANT} (fewer than {MIN_DIFFERING_GROUPS} groups differ)"
    if difference["low"] <= 0 <= difference["high"]:
        return NOT_SIGNIFICANT
    if difference["p"] >= _LEVEL:
        return f"{NOT_SIGNIFICANT} (fits disagree)"
    if difference["p_holm"] >= _LEVEL:
        return f"{NOT_SIGNIFICANT} (after Holm)"
    return BETTER if difference["low"] > 0 else WORSE


def bootstrap_p(drawn: np.ndarray) -> float:
    """Two-sided p of no difference: twice the share of draws (D,) on the rarer side of 0, never 0 itself."""
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, 2 * (float(rarer) + 1) / (len(drawn) + 1))


def student_p(gaps: np.ndarray) -> float:
    """Two-sided p of Student's t test that differences (F,) have the mean 0; 1 for a single fit."""
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    return float(stats.ttest_1samp(gaps, 0).pvalue) if np.ptp(gaps) else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the given order."""
    p = np.asarray(p_values)
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    return adjusted.tolist()


def _check_paired(conditions: Sequence[str], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    for condition, frame in zip(conditions, frames, strict=True):
        if not frame[["id", "label", "group"]].equals(frames[0][["id", "label", "group"]]):
            raise DataError(
                f"{condition} was evaluated on other rows than {conditions[0]}, so they cannot be compared. Images or "
                "labels have changed between the fits: restore them, and start a new ablation."
            )
    return frames[0]


def _check_steps(conditions: Sequence[str], facts: Sequence[Sequence[dict[str, Any]]]) -> None:
    for of_fit in facts:
        steps = {condition: int(fact["steps"]) for condition, fact in zip(conditions, of_fit, strict=True)}
        if len(set(steps.values())) > 1:
            raise WiringError(
                f"The conditions made different numbers of optimizer steps, {steps}, so they cannot be compared. "
                "Start a new ablation."
            )


def _check_not_the_same(conditions: Sequence[str], probabilities: np.ndarray) -> None:
    """Equal weights, batches and settings give equal predictions, so equality shows that a condition has no effect."""
    for condition, own in zip(conditions[1:], probabilities[1:], strict=True):
        if np.array_equal(own, probabilities[0]):
            raise WiringError(
                f"{condition} predicts exactly what {conditions[0]} does: the keys that it sets had no effect."
            )


def draw_ablation(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: for each condition, its paired difference with the 95 % interval and a tick for each fit.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    baseline, *conditions = report["arms"]
    figure = new_figure(9, 1.8 + 0.65 * len(conditions))
    axes = figure.subplots()
    names = []
    for y, condition in enumerate(conditions):
        metrics = report["arms"][condition]
        style = _STYLES.get(metrics["verdict"], _DEFAULT_STYLE)
        draw_differences(axes, [metrics["difference"]], [y], style, tick_offset=0.24)
        names.append("\n".join([condition, metrics["verdict"].replace(" (", "\n(")]))
    mean = report["arms"][baseline]["mcc"]["value"]
    title = f"{report['model']}, {report['fits']} fits per condition; {baseline}: MCC {mean:.3f}"
    label_differences(axes, names, f"MCC minus that of {baseline} (95 % interval; ticks: single fits)", title)
    figure.savefig(path, format="png", dpi=130)


def report_ablation(plan: Plan, command: str) -> dict[str, Any]:
    """Analyses the stored predictions of all fits; writes `ablation.json`, `.md`, `.png` and the manifest.

    Args:
        plan: all its fits are finished.
        command: reproduces the report.

    Returns:
        What `ablation.json` holds.

    Raises:
        RoadworkError: a stored file is damaged, or matplotlib is not installed.
    """
    conditions = plan.conditions
    of_pairs = [plan.fits[start : start + len(conditions)] for start in range(0, len(plan.fits), len(conditions))]
    settings = plan.settings
    evaluation, model = settings.evaluation, settings.model
    name = Path(model.name).name if Path(model.name).is_dir() else model.name  # the report names no local path
    report = {
        "command": command,
        "model": f"{name}, {'pretrained' if model.pretrained else 'random weights'}",
        "img_size": settings.data.img_size,
        "frozen": settings.training.freeze_backbone,
        "lr": settings.training.lr,
        **{key: plan.options[key] for key in ("seeds", "folds", "full")},
        "sets": plan.options["arms"],
        **analyse(
            conditions,
            [[fit.read_predictions() for fit in fits] for fits in of_pairs],
            [[_read_facts(fit) for fit in fits] for fits in of_pairs],
            draws=evaluation.bootstrap_draws,
            seed=evaluation.seed,
        ),
    }
    write_report_files(plan.folder, STEM, report, _markdown(report), draw_ablation)
    Run(plan.folder).write_manifest(data_fingerprint=plan.dataset.table.fingerprint(), command=command)
    return report


def format_report(report: dict[str, Any]) -> Group:
    """The report for a terminal."""
    return Group(Text(_size(report)), _table(report).as_rich(), *(Text(line) for line in _remarks(report)))


def _markdown(report: dict[str, Any]) -> str:
    plot = f"![MCC difference of each condition from {_baseline(report)}, with 95 % intervals]({STEM}.png)"
    lines = ["# Ablation", "", f"Made by `{report['command']}`.", "", _size(report), ""]
    lines += [_table(report).as_markdown(), *(f"{line}\n" for line in _remarks(report)), "## Conditions", ""]
    lines += [f"- `{name}`: {' '.join(f'`{k}={v}`' for k, v in sets.items())}" for name, sets in report["sets"].items()]
    return "\n".join([*lines, "", plot, ""])


def _baseline(report: dict[str, Any]) -> str:
    return str(next(iter(report["arms"])))


def _size(report: dict[str, Any]) -> str:
    steps = next(iter(report["arms"].values()))["steps"]
    each = "every seed on every fold" if report["full"] else "seed s on fold s only"
    frozen = ", backbone frozen" if report["frozen"] else ""
    return (
        f"{report['rows']:,} held-out rows in {report['groups']:,} groups, from all splits except val_test. "
        f"{report['fits']} fits per condition ({report['seeds']} seeds, {report['folds']} folds: {each}), "
        f"{steps:,.0f} optimizer steps each on average. "
        f"All conditions: {report['model']}, {report['img_size']} px{frozen}."
    )


def _table(report: dict[str, Any]) -> ReportTable:
    header = ("condition", "MCC", f"minus {_baseline(report)}", "verdict", "trained", "s", "MB", "images/s")
    rows = [
        (
            name,
            f"{metrics['mcc']['value']:.3f}",
            format_difference(metrics["difference"]) if "difference" in metrics else "",
            metrics.get("verdict", "").replace(NOT_SIGNIFICANT, "n.s."),
            _show_count(metrics["trainable"]),
            f"{metrics['seconds']:.0f}",
            f"{metrics['checkpoint_mb']:.1f}",
            f"{metrics['images_per_second']:.0f}",
        )
        for name, metrics in report["arms"].items()
    ]
    note = (
        "MCC: mean over fits, each on its held-out fold, last weights, threshold 0.5. Intervals: 95 %, bootstrap over "
        "groups and fits, the same draws for all conditions. n.s.: not significantly different. trained: parameters. "
        "s: training steps, mean over fits. MB: a checkpoint with everything a resume needs."
    )
    return ReportTable("MCC by condition", header, rows, note)


def _show_count(n: float) -> str:
    return f"{n / 1e6:.3g} M" if n >= 1e5 else f"{n:,.0f}"  # eight columns have to fit a terminal


def _remarks(report: dict[str, Any]) -> list[str]:
    n_compared = report["comparisons"]
    rule = (
        f"{n_compared} comparison{'s' if n_compared > 1 else ''} with {_baseline(report)}. A condition is better or "
        "worse only if the interval excludes 0 and p is below 0.05 after Holm's correction; p is the larger of the "
        f"bootstrap's and that of Student's t over fits. It also needs {MIN_FITS} fits, and decisions that differ in "
        f"{MIN_DIFFERING_GROUPS} effective groups."
    )
    remarks = [rule]
    if not report["full"]:
        remarks.append(
            "Each seed was trained on one fold only, so the effects of seed and fold are confounded, and the interval "
            f"estimates the noise of training from {report['fits']} fits. --full trains each seed on each fold."
        )
    if any(sets.get("data.gps_sampling.enabled") for sets in report["sets"].values()):
        remarks.append(
            "All held-out rows count equally, wherever they are. GPS weighting draws rows near the deployment more "
            "often and others less; `roadwork experiment gps` also weights the evaluation."
        )
    if report["frozen"] or "probe" in report["arms"]:
        remarks.append("The seconds of a frozen backbone exclude its features, which are computed once.")
    return remarks


def _read_facts(fit: Fit) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(fit.facts_file.read_text(encoding="utf-8"))
        return {key: float(facts[key]) for key in FACTS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{fit.facts_file} is damaged ({error}). {fit.how_to_retrain}") from error
