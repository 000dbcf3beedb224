"""Runs the GPS weighting experiment and writes its tables, plot and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Group
from rich.text import Text

from roadwork.config import to_settings
from roadwork.data.deployment import unreachable_targets
from roadwork.data.utils.privacy import round_positions
from roadwork.experiments.comparison import (
    ReportTable,
    draw_differences,
    error_bars,
    format_difference,
    label_differences,
    new_figure,
    write_report_files,
)
from roadwork.experiments.gps_analysis import OVERALL, PRIMARY, SINGLE, analyse, decide_verdict
from roadwork.experiments.gps_conditions import (
    PLACEBO,
    UNIFORM,
    GpsExperiment,
    build_sampler,
    prepare_experiment,
)
from roadwork.experiments.gps_seeds import run_seeds
from roadwork.experiments.heads import HeadSettings
from roadwork.runs.run import Run
from roadwork.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Colours by Okabe and Ito, distinct with all common kinds of colour vision; the markers also work without colour.
_STYLES = {
    "uniform": ("#000000", "o"),
    "class_balanced": ("#E69F00", "s"),
    "gps": ("#0072B2", "D"),
    "placebo": ("#999999", "X"),
    "gps_last_layer": ("#009E73", "^"),
    "gps_half_dose": ("#CC79A7", "v"),
}
_REFERENCES = {UNIFORM: (("#0072B2", "o"), -0.14), PLACEBO: (("#D55E00", "s"), 0.14)}
STEM = "gps_experiment"


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: differences between conditions with their intervals, and MCC by distance.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(9, 9.5)
    above, below = figure.subplots(2, 1)
    _draw_differences(above, report["differences"])
    _draw_brackets(below, report)
    figure.suptitle(f"Verdict: {report['verdict']['claim']}", fontsize=13, fontweight="bold")
    figure.savefig(path, format="png", dpi=130)


def _draw_differences(axes: Axes, differences: dict[str, Any]) -> None:
    for reference, (style, offset) in _REFERENCES.items():
        shown = [
            (y + offset, own[reference][PRIMARY]) for y, own in enumerate(differences.values()) if reference in own
        ]
        heights, values = zip(*shown, strict=True)
        draw_differences(axes, values, heights, style, single=SINGLE, label=f"minus {reference}")
    label_differences(
        axes,
        list(differences),
        "difference in deployment-weighted MCC (95 % interval; ticks: single seeds)",
        "Primary endpoint: each condition against uniform draws and against the placebo",
    )
    axes.legend(loc="best")


def _draw_brackets(axes: Axes, report: dict[str, Any]) -> None:
    brackets, conditions = report["brackets"], report["arms"]
    shown = [n for n in range(len(brackets)) if conditions[UNIFORM]["by_bracket"][n] is not None]
    places = [{"name": "all rows", "rows": report["rows"], "groups": report["groups"]}, *(brackets[n] for n in shown)]
    for number, (condition, metrics) in enumerate(conditions.items()):
        colour, marker = _STYLES[condition]
        values = [metrics[OVERALL], *(metrics["by_bracket"][n] for n in shown)]
        axes.errorbar(
            np.arange(len(places)) + 0.13 * (number - (len(conditions) - 1) / 2),
            [value["value"] for value in values],
            yerr=error_bars(values), fmt=marker, color=colour, capsize=3, markersize=6, label=condition,
        )  # fmt: skip
    axes.set_xticks(range(len(places)), ["{name}\n{rows:,} rows\n{groups:,} groups".format(**p) for p in places])
    for x in range(len(places) - 1):
        axes.axvline(x + 0.5, color="black", linewidth=0.5, alpha=0.3)
    axes.set_ylabel("MCC of out-of-fold decisions")
    axes.set_title("MCC by distance to the deployment (95 % intervals)", loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=len(conditions), loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, columnspacing=1.2)


def make_tables(report: dict[str, Any]) -> list[ReportTable]:
    """The tables of a report: differences, MCC by place, effect of the weights, and bias of random folds."""
    return [_differences(report), _mcc_by_place(report), _weights(report), _random_folds(report)]


def format_report(report: dict[str, Any]) -> Group:
    """The report for a terminal of 80 columns."""
    tables = [table.as_rich() for table in make_tables(report)]
    return Group(Text(_size(report)), *tables, *(Text(line) for line in _verdict_lines(report)))


def _markdown(report: dict[str, Any]) -> str:
    head = ["# Does GPS weighting help here?", "", f"Made by `{report['command']}`.", "", _size(report), ""]
    verdict = ["## Verdict", "", *(f"{line}\n" for line in _verdict_lines(report))]
    plot = [f"![Differences between the conditions, and MCC by distance]({STEM}.png)", ""]
    return "\n".join([*head, *verdict, *plot, *(table.as_markdown() for table in make_tables(report))])


def _size(report: dict[str, Any]) -> str:
    text = (
        f"{report['rows']:,} rows in {report['groups']:,} groups, {report['roadwork'] / report['rows']:.0%} Roadwork, "
        f"from all splits except val_test. {report['seeds']} seeds, {report['folds']} folds, "
        f"{report['heads']['steps']} steps per condition. "
        f"Deployment: {report['target_source']}. Features: {report['model']}."
    )
    if not report["pretrained"]:
        text += " WEAK FEATURES: the backbone has random weights (model.pretrained is false)."
    return text


def _verdict_lines(report: dict[str, Any]) -> list[str]:
    verdict = report["verdict"]
    unreachable = [report["unreachable"]] if report["unreachable"] else []
    return [f"Verdict: {verdict['claim']}", *verdict["reasons"], *verdict["remarks"], *unreachable]


def _differences(report: dict[str, Any]) -> ReportTable:
    rows = []
    for condition, metrics in report["arms"].items():
        against = report["differences"].get(condition, {})
        cells = [format_difference(against[other][PRIMARY]) if other in against else "" for other in (UNIFORM, PLACEBO)]
        rows.append((condition, _mcc(metrics[PRIMARY]), *cells))
    note = (
        "Each row counts by the sampling weight of its bracket. Mean over seeds of out-of-fold decisions; 95 % "
        "intervals by a bootstrap over groups and seeds, the same draws for all conditions."
    )
    header = ("condition", "MCC", "minus uniform", "minus placebo")
    return ReportTable("Deployment-weighted MCC (primary endpoint)", header, rows, note)


def _mcc_by_place(report: dict[str, Any]) -> ReportTable:
    shown = [(number, bracket) for number, bracket in enumerate(report["brackets"]) if bracket["rows"]]
    rows = [(size, f"{report[size]:,}", *(f"{b[size]:,}" for _, b in shown), "") for size in ("rows", "groups")]
    for condition, metrics in report["arms"].items():
        brackets = (_mcc(metrics["by_bracket"][number]) for number, _ in shown)
        worst = f"{metrics['worst_cell']['mcc']:.3f}" if metrics["worst_cell"] else "-"
        rows.append((condition, _mcc(metrics[OVERALL]), *brackets, worst))
    cells = report["cells"]
    note = (
        f"Worst cell: the lowest MCC of {cells['judged']} H3 cells of resolution {cells['resolution']} with at least "
        f"{cells['min_rows_a_label']} rows of each label. A minimum over small samples is biased low."
    )
    return ReportTable("MCC by place", ("condition", "all", *(b["name"] for _, b in shown), "worst cell"), rows, note)


def _weights(report: dict[str, Any]) -> ReportTable:
    rows = [
        (
            condition,
            f"{metrics['effective_rows']:,.0f}",
            f"{metrics['effective_groups']:,.0f}",
            f"{metrics['weight_label_correlation']:+.3f}",
            f"{metrics['roadwork_share_drawn']:.1%}",
            f"{100 * (metrics['roadwork_share_drawn'] - metrics['roadwork_share']):+.1f}",
        )
        for condition, metrics in report["arms"].items()
    ]
    note = (
        "Means over the training folds. Effective sample sizes: Kish's (sum w)²/sum w². Shift: how much the weighting "
        "changes the class prior."
    )
    header = ("condition", "eff. rows", "eff. groups", "corr. with label", "Roadwork drawn", "shift in points")
    return ReportTable("Effect of the weights", header, rows, note)


def _random_folds(report: dict[str, Any]) -> ReportTable:
    metrics = report["random_folds"]
    rows = [
        ("folds of whole groups", _mcc(metrics["grouped_mcc"]), ""),
        ("folds of single rows (random: leaks)", _mcc(metrics["mcc"]), format_difference(metrics["difference"])),
    ]
    note = "The condition `uniform`, evaluated on folds that keep groups together and on folds that do not."
    return ReportTable("Bias of a random split", ("split", "MCC", "too high by"), rows, note)


def _mcc(metric: dict[str, Any] | None) -> str:
    return "-" if metric is None else f"{metric['value']:.3f}"


def run_gps_experiment(
    cfg: DictConfig, heads: HeadSettings, *, n_folds: int, n_seeds: int, command: str
) -> tuple[Path, dict[str, Any]]:
    """Runs the experiment and writes its report to `outputs/<experiment>/gps/<UTC time>/`.

    Args:
        cfg: the composed configuration.
        heads: how heads are trained.
        n_folds: of each cross-validation.
        n_seeds: seeds 0 to n_seeds - 1.
        command: reproduces the report.

    Returns:
        The folder, and what `gps_experiment.json` in it holds.
    """
    settings = to_settings(cfg)
    experiment = prepare_experiment(settings, heads, n_folds)
    # `roadwork train` keeps its own `latest` beside this folder.
    name = f"{settings.experiment}/gps"
    kept_seeds = Path(settings.output_dir) / name / "seeds"
    report = report_experiment(experiment, settings, range(n_seeds), kept_seeds)
    run = Run.create(Path(settings.output_dir), name)
    run.write_manifest(data_fingerprint=experiment.table.fingerprint(), command=command)
    report |= {
        "command": command,
        "config": _jsonable(OmegaConf.to_container(cfg, resolve=True)),
        "versions": run.read_manifest()["versions"],
    }
    write_report_files(run.folder, STEM, report, _markdown(report), draw_report)
    run.write_manifest()
    return run.folder, report


def report_experiment(experiment: GpsExperiment, settings: Settings, seeds: range, kept_seeds: Path) -> dict[str, Any]:
    """Trains all conditions over the seeds; returns all metrics with the verdict, ready for JSON."""
    sampler = build_sampler(experiment)
    results = run_seeds(experiment, sampler.cluster_centers, seeds, kept_seeds)
    evaluation = settings.evaluation
    metrics = analyse(experiment, sampler, results, draws=evaluation.bootstrap_draws, seed=evaluation.seed)
    decimals = settings.privacy.coarsen_gps
    for condition in metrics["arms"].values():
        if condition["worst_cell"]:
            center_deg = np.array(condition["worst_cell"]["center_deg"])
            condition["worst_cell"]["center_deg"] = round_positions(center_deg, decimals).tolist()
    model = settings.model
    weights = "pretrained" if model.pretrained else f"random weights of seed {settings.training.seed}"
    return {
        "verdict": decide_verdict(metrics),
        "unreachable": unreachable_targets(round_positions(experiment.target_deg, decimals), experiment.table.gps),
        "target_source": experiment.target_source,
        "model": f"{model.name}, {weights}, frozen, {settings.data.img_size} px",
        "pretrained": model.pretrained,
        "backbone_sha256": experiment.backbone,
        "folds": experiment.n_folds,
        "heads": asdict(experiment.heads),
        **metrics,
    }


def _jsonable(value: Any) -> Any:
    """The value with infinite numbers as text, since JSON has none."""
    return json.loads(json.dumps(value), parse_constant=lambda name: str(float(name)))
