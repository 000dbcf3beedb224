"""Analyses an ablation and writes its report.

An MCC is the mean over fits of the MCC of a fit's decisions at 0.5 on the fold that it has not seen. Intervals are by a
bootstrap over groups and fits at once (`paired_bootstrap`), the same draws for all arms.

Of few fits a bootstrap sees too little of the noise of training, so a claim also needs Student's t test over fits, and
p is the larger of the two. The overlap of the fits' training rows is in neither.
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
from roadwork.core.files import atomic_path, write_json
from roadwork.experiments.ablation_fit import FACTS
from roadwork.experiments.ablation_plan import Ablation, Fit
from roadwork.experiments.gps_report import ReportTable, check_plot_installed
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, effective_groups, percentile_interval
from roadwork.metrics.predictions import read_predictions
from roadwork.runs.run import Run

BETTER, WORSE, NOT_TOLD_APART = "better", "worse", "not told apart"

# A bootstrap redraws only what it has seen, so of a handful it says too much.
MIN_DIFFERING_GROUPS = 10
MIN_FITS = 5
_LEVEL = 0.05

# Okabe and Ito's colours, which all common kinds of colour vision tell apart; the markers do without colour.
_STYLES = {BETTER: ("#0072B2", "^"), WORSE: ("#D55E00", "v")}
_NOT_TOLD_APART = ("#555555", "o")
STEM = "ablation"


def analyse(
    arms: Sequence[str],
    frames: Sequence[Sequence[pd.DataFrame]],
    facts: Sequence[Sequence[dict[str, Any]]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Every figure of the report, ready for JSON.

    Args:
        arms: A names, the base first.
        frames: F fits of A predictions tables each; those of a fit hold the same rows.
        facts: likewise, what `fit.json` holds.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        DataError: the arms of a fit were judged on different rows.
        WiringError: they made different numbers of steps, or one predicted exactly what the base did.
    """
    rows = pd.concat([_check_paired(arms, of_fit) for of_fit in frames], ignore_index=True)
    _check_steps(arms, facts)
    labels, groups = rows["label"].to_numpy(), rows["group"].to_numpy()
    fits = np.repeat(np.arange(len(frames)), [len(of_fit[0]) for of_fit in frames])
    probabilities = np.stack(
        [np.concatenate([of_fit[arm]["probability"].to_numpy() for of_fit in frames]) for arm in range(len(arms))]
    )
    _check_not_the_same(arms, probabilities)
    counts = count_paired(labels, probabilities[None], groups, fits, len(frames))[:, :, 0][:, None]  # (G, 1, F, A, 4)
    by_fit = mcc(counts.sum(axis=0))[0]  # (F, A)
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=draws, seed=seed)[:, 0]  # (draws, A)
    _, codes = np.unique(groups, return_inverse=True)
    differing = [
        effective_groups(np.bincount(codes, decide(of_arm) != decide(probabilities[0]))) for of_arm in probabilities
    ]
    result: dict[str, dict[str, Any]] = {
        arm: {
            "mcc": _summarise(by_fit[:, number], drawn[:, number]),
            **{key: float(np.mean([of_fit[number][key] for of_fit in facts])) for key in facts[0][0]},
        }
        for number, arm in enumerate(arms)
    }
    for number, arm in enumerate(arms[1:], start=1):
        gaps, drawn_gaps = by_fit[:, number] - by_fit[:, 0], drawn[:, number] - drawn[:, 0]
        p = max(bootstrap_p(drawn_gaps), student_p(gaps))
        result[arm] |= {
            "difference": _summarise(gaps, drawn_gaps) | {"p": p},
            "differing_groups": differing[number],
        }
    adjusted = holm([result[arm]["difference"]["p"] for arm in arms[1:]])
    for arm, p in zip(arms[1:], adjusted, strict=True):
        difference = result[arm]["difference"]
        difference["p_holm"] = p
        result[arm]["verdict"] = judge(difference, result[arm]["differing_groups"], len(frames))
    return {
        "rows": int(rows["id"].nunique()),
        "groups": int(codes.max() + 1),
        "fits": len(frames),
        "comparisons": len(arms) - 1,
        "arms": result,
    }


def judge(difference: dict[str, Any], differing_groups: float, n_fits: int) -> str:
    """What may be said of a difference: of several, only what Holm's correction leaves is called better or worse."""
    if n_fits < MIN_FITS:
        return f"{NOT_TOLD_APART} (fewer than {MIN_FITS} fits)"
    if differing_groups < MIN_DIFFERING_GROUPS:
        return f"{NOT_TOLD_APART} (fewer than {MIN_DIFFERING_GROUPS} groups differ)"
    if difference["low"] <= 0 <= difference["high"]:
        return NOT_TOLD_APART
    if difference["p"] >= _LEVEL:
        return f"{NOT_TOLD_APART} (fits disagree)"
    if difference["p_holm"] >= _LEVEL:
        return f"{NOT_TOLD_APART} (after Holm)"
    return BETTER if difference["low"] > 0 else WORSE


def bootstrap_p(drawn: np.ndarray) -> float:
    """Two-sided p of no difference: twice the share of draws (D,) on the rarer side of 0, never 0 itself."""
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, 2 * (float(rarer) + 1) / (len(drawn) + 1))


def student_p(gaps: np.ndarray) -> float:
    """Two-sided p of Student's t test that differences (F,) have the mean 0; 1 where there is one alone."""
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    return float(2 * stats.t.sf(abs(gaps.mean()) / error, len(gaps) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = raised
    return [float(p) for p in adjusted]


def _check_paired(arms: Sequence[str], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    for arm, frame in zip(arms, frames, strict=True):
        if not frame[["id", "label", "group"]].equals(frames[0][["id", "label", "group"]]):
            raise DataError(
                f"{arm} was judged on other rows than {arms[0]}, so they cannot be compared. Pictures or labels have "
                "changed between the fits: restore them, and start a new ablation."
            )
    return frames[0]


def _check_steps(arms: Sequence[str], facts: Sequence[Sequence[dict[str, Any]]]) -> None:
    for of_fit in facts:
        steps = dict(zip(arms, (int(fact["steps"]) for fact in of_fit), strict=True))
        if len(set(steps.values())) > 1:
            raise WiringError(f"The arms made different numbers of optimizer steps, {steps}: nothing can be compared.")


def _check_not_the_same(arms: Sequence[str], probabilities: np.ndarray) -> None:
    """Networks that begin alike and see the same batches end alike, so an arm that changes nothing shows itself."""
    for arm, of_arm in zip(arms[1:], probabilities[1:], strict=True):
        if np.array_equal(of_arm, probabilities[0]):
            raise WiringError(f"{arm} predicted exactly what {arms[0]} did: what the arm sets changed nothing.")


def _summarise(by_fit: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    low, high = percentile_interval(drawn)
    return {"value": float(by_fit.mean()), "low": low, "high": high, "by_fit": by_fit.tolist()}


def draw_differences(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: a row for each arm, its paired difference with the 95 % interval, and each fit's as a tick.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_plot_installed()
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    base, *arms = report["arms"]
    figure = Figure(figsize=(9, 1.8 + 0.65 * len(arms)), layout="constrained")
    axes = figure.subplots()
    labels = []
    for y, arm in enumerate(arms):
        figures = report["arms"][arm]
        difference = figures["difference"]
        colour, marker = _STYLES.get(figures["verdict"], _NOT_TOLD_APART)
        value = difference["value"]
        reach = [[value - difference["low"]], [difference["high"] - value]]
        axes.errorbar([value], [y], xerr=reach, fmt=marker, color=colour, capsize=4, linewidth=2, markersize=8)
        by_fit = difference["by_fit"]
        axes.plot(by_fit, [y + 0.24] * len(by_fit), "|", color=colour, alpha=0.6, markersize=8)
        labels.append("\n".join([arm, figures["verdict"].replace(" (", "\n(")]))
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(arms)), labels)
    axes.set_ylim(len(arms) - 0.4, -0.6)
    axes.set_xlabel(f"MCC minus that of {base} (95 % interval; ticks: single fits)")
    title = f"{report['model']}, {report['fits']} fits an arm; {base}: MCC {report['arms'][base]['mcc']['value']:.3f}"
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, format="png", dpi=130)


def report_ablation(ablation: Ablation, command: str) -> dict[str, Any]:
    """Analyses the stored predictions of all fits; writes `ablation.json`, `.md`, `.png` and the manifest.

    Args:
        ablation: all its fits finished.
        command: that makes the report again, for readers.

    Returns:
        What `ablation.json` holds.

    Raises:
        RoadworkError: a stored file is damaged, or matplotlib is not installed.
    """
    by_pair = [
        ablation.fits[start : start + len(ablation.arms)] for start in range(0, len(ablation.fits), len(ablation.arms))
    ]
    evaluation, model = ablation.settings.evaluation, ablation.settings.model
    name = Path(model.name).name if Path(model.name).is_dir() else model.name  # where a folder lies is nobody's concern
    report = {
        "command": command,
        "model": f"{name}, {'pretrained' if model.pretrained else 'random weights'}",
        "img_size": ablation.settings.data.img_size,
        "frozen": ablation.settings.training.freeze_backbone,
        "lr": ablation.settings.training.lr,
        "seeds": ablation.design.seeds,
        "folds": ablation.design.folds,
        "full": ablation.design.full,
        "sets": ablation.arms,
        **analyse(
            list(ablation.arms),
            [[read_predictions(fit.predictions_file) for fit in of_pair] for of_pair in by_pair],
            [[_read_facts(fit) for fit in of_pair] for of_pair in by_pair],
            draws=evaluation.bootstrap_draws,
            seed=evaluation.seed,
        ),
    }
    write_json(ablation.folder / f"{STEM}.json", report)
    with atomic_path(ablation.folder / f"{STEM}.md") as temporary:
        temporary.write_text(_markdown(report), encoding="utf-8")
    with atomic_path(ablation.folder / f"{STEM}.png") as temporary:
        draw_differences(report, temporary)
    Run(ablation.folder).write_manifest(data_fingerprint=ablation.fingerprint, command=command)
    return report


def format_report(report: dict[str, Any]) -> Group:
    """The report for a terminal."""
    return Group(Text(_size(report)), _table(report).as_rich(), *(Text(line) for line in _remarks(report)))


def _markdown(report: dict[str, Any]) -> str:
    picture = f"![Each arm's MCC minus that of {_base(report)}, with 95 % intervals]({STEM}.png)"
    lines = ["# What each part is worth", "", f"Made by `{report['command']}`.", "", _size(report), ""]
    lines += [_table(report).as_markdown(), *(f"{line}\n" for line in _remarks(report)), "## What each arm sets", ""]
    lines += [f"- `{arm}`: {' '.join(f'`{k}={v}`' for k, v in sets.items())}" for arm, sets in report["sets"].items()]
    return "\n".join([*lines, "", picture, ""])


def _base(report: dict[str, Any]) -> str:
    base: str = next(iter(report["arms"]))
    return base


def _size(report: dict[str, Any]) -> str:
    steps = next(iter(report["arms"].values()))["steps"]
    each = "every seed on every fold" if report["full"] else "seed s on fold s alone"
    frozen = ", backbone frozen" if report["frozen"] else ""
    return (
        f"{report['rows']:,} held-out rows in {report['groups']:,} groups, of all splits but val_test. "
        f"{report['fits']} fits an arm ({report['seeds']} seeds, {report['folds']} folds: {each}), "
        f"{steps:,.0f} optimizer steps each in the mean. "
        f"Common to all: {report['model']}, {report['img_size']} px{frozen}."
    )


def _table(report: dict[str, Any]) -> ReportTable:
    base = _base(report)
    header = ("arm", "MCC", f"above {base}", "verdict", "trained", "s", "MB", "images/s")
    rows = []
    for arm, figures in report["arms"].items():
        difference = figures.get("difference")
        gap = f"{difference['value']:+.3f} ({difference['low']:+.3f}, {difference['high']:+.3f})" if difference else ""
        speed = (f"{figures['seconds']:.0f}", f"{figures['checkpoint_mb']:.1f}", f"{figures['images_per_second']:.0f}")
        cells = (f"{figures['mcc']['value']:.3f}", gap, figures.get("verdict", ""), _show_count(figures["trainable"]))
        rows.append((arm, *cells, *speed))
    note = (
        "MCC: mean over fits, each on the fold that it has not seen, last weights, threshold 0.5. Intervals: 95 %, by "
        "a bootstrap over groups and fits, the same draws for all arms. Trained: parameters. s: of training steps, a "
        "mean. MB: of a checkpoint with all that a resume needs."
    )
    return ReportTable("What each part is worth", header, rows, note)


def _show_count(n: float) -> str:
    return f"{n / 1e6:.3g} M" if n >= 1e5 else f"{n:,.0f}"  # a table of eight columns has to fit a terminal


def _remarks(report: dict[str, Any]) -> list[str]:
    n_compared = report["comparisons"]
    rule = (
        f"{n_compared} comparison{'s' if n_compared > 1 else ''} with {_base(report)}: better or worse is said only "
        "where the interval leaves out 0, and p (the larger of the bootstrap's and Student's over fits) stays below "
        f"0.05 after Holm's correction; never below {MIN_FITS} fits, nor where decisions differ in fewer than "
        f"{MIN_DIFFERING_GROUPS} effective groups."
    )
    remarks = [rule]
    if not report["full"]:
        remarks.append(
            "Each seed was tried on one fold alone: a lucky seed and an easy fold cannot be told apart, and what the "
            f"interval knows of the noise of training comes from {report['fits']} fits. --full tries each seed on each "
            "fold."
        )
    if any(sets.get("data.gps_sampling.enabled") for sets in report["sets"].values()):
        remarks.append(
            "Every held-out row counts alike, wherever it lies, and GPS weighting draws rows near the deployment more "
            "often at the price of the others: `roadwork experiment gps` weights the rows that judge, too."
        )
    if report["frozen"] or "probe" in report["arms"]:
        remarks.append("The seconds of a frozen backbone do not hold the computation of its features, made once.")
    return remarks


def _read_facts(fit: Fit) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(fit.facts_file.read_text(encoding="utf-8"))
        return {key: float(facts[key]) for key in FACTS}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{fit.facts_file} is damaged ({error}). Remove {fit.folder} to train this fit again with --resume."
        ) from error
