"""The report of an ablation: a table for a terminal and for Markdown, its words, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from roadwork.errors import DataError
from roadwork.evaluation.predictions import read_predictions
from roadwork.experiments.ablate_analysis import MIN_DIFFERING_GROUPS, MIN_FITS, analyse
from roadwork.experiments.ablate_fit import FACTS
from roadwork.experiments.ablate_plan import Ablation, Fit
from roadwork.experiments.ablate_plot import draw_differences
from roadwork.experiments.gps_report import ReportTable
from roadwork.runs import atomic_path, write_json, write_manifest

STEM = "ablation"


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
    write_manifest(ablation.folder, data_fingerprint=ablation.fingerprint, command=command)
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
