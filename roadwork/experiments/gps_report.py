"""Runs the GPS weighting experiment and writes its tables, plot and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.config import to_settings
from roadwork.core.errors import MissingExtraError
from roadwork.core.files import atomic_path, write_json
from roadwork.data.deployment import unreachable_targets
from roadwork.data.utils.privacy import round_positions
from roadwork.experiments.gps_analysis import OVERALL, PRIMARY, analyse, decide_verdict
from roadwork.experiments.gps_conditions import ARMS, PLACEBO, UNIFORM, GpsExperiment, build_sampler, prepare_experiment
from roadwork.experiments.gps_seeds import run_seeds
from roadwork.experiments.heads import HeadSettings
from roadwork.runs.run import Run
from roadwork.settings import Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Okabe and Ito's colours, which all common kinds of colour vision tell apart; the markers do without colour.
_STYLES = {
    "uniform": ("#000000", "o"),
    "class_balanced": ("#E69F00", "s"),
    "gps": ("#0072B2", "D"),
    "placebo": ("#999999", "X"),
    "gps_last_layer": ("#009E73", "^"),
    "gps_half_dose": ("#CC79A7", "v"),
}
_AGAINST = {UNIFORM: ("#0072B2", "o", -0.14), PLACEBO: ("#D55E00", "s", 0.14)}
STEM = "gps_experiment"


def check_plot_installed() -> None:
    """Raises before hours of work, not after.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "Plots need matplotlib, which is not installed. Install it with: pip install 'roadwork-vision[report]'"
        )


def draw_report(report: dict[str, Any], path: Path) -> None:
    """Writes a PNG: differences of the arms with their intervals, and MCC by distance.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_plot_installed()
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    figure = Figure(figsize=(9, 9.5), layout="constrained")
    above, below = figure.subplots(2, 1)
    _draw_differences(above, report)
    _draw_brackets(below, report)
    figure.suptitle(f"Verdict: {report['verdict']['claim']}", fontsize=13, fontweight="bold")
    figure.savefig(path, format="png", dpi=130)


def _draw_differences(axes: Axes, report: dict[str, Any]) -> None:
    arms = [arm for arm in ARMS if arm != UNIFORM]
    for other, (colour, marker, offset) in _AGAINST.items():
        shown = [(y, report["differences"][arm].get(other)) for y, arm in enumerate(arms)]
        points = [(y + offset, difference[PRIMARY]) for y, difference in shown if difference is not None]
        axes.errorbar(
            [d["value"] for _, d in points],
            [y for y, _ in points],
            xerr=[[d["value"] - d["low"] for _, d in points], [d["high"] - d["value"] for _, d in points]],
            fmt=marker, color=colour, capsize=4, linewidth=1.8, markersize=7, label=f"minus {other}",
        )  # fmt: skip
        for y, difference in points:
            axes.plot(
                difference["by_seed"], [y] * len(difference["by_seed"]), "|", color=colour, alpha=0.6, markersize=9
            )
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    axes.set_xlabel("difference in deployment-weighted MCC (95 % interval; ticks: single seeds)")
    axes.set_title("Primary endpoint: each arm against uniform draws and against the placebo", loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="best")


def _draw_brackets(axes: Axes, report: dict[str, Any]) -> None:
    brackets = report["brackets"]
    shown = [n for n in range(len(brackets)) if report["arms"][UNIFORM]["by_bracket"][n] is not None]
    names = ["all rows", *(brackets[n]["name"] for n in shown)]
    sizes = [(report["rows"], report["groups"]), *((brackets[n]["rows"], brackets[n]["groups"]) for n in shown)]
    for number, arm in enumerate(ARMS):
        colour, marker = _STYLES[arm]
        figures = [report["arms"][arm][OVERALL], *(report["arms"][arm]["by_bracket"][n] for n in shown)]
        positions = [x + 0.13 * (number - (len(ARMS) - 1) / 2) for x in range(len(names))]
        values = [figure["value"] for figure in figures]
        errors = [[f["value"] - f["low"] for f in figures], [f["high"] - f["value"] for f in figures]]
        axes.errorbar(positions, values, yerr=errors, fmt=marker, color=colour, capsize=3, markersize=6, label=arm)
    labels = [f"{name}\n{rows:,} rows\n{groups:,} groups" for name, (rows, groups) in zip(names, sizes, strict=True)]
    axes.set_xticks(range(len(names)), labels)
    for x in range(len(names) - 1):
        axes.axvline(x + 0.5, color="black", linewidth=0.5, alpha=0.3)
    axes.set_ylabel("MCC of out-of-fold decisions")
    axes.set_title("MCC by distance to the deployment (95 % intervals)", loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=len(ARMS), loc="upper center", bbox_to_anchor=(0.5, -0.16), fontsize=9, columnspacing=1.2)


@dataclass(frozen=True)
class ReportTable:
    """A table of texts, its first column of names.

    Attributes:
        title: what it shows.
        header: of the columns.
        rows: of as many cells.
        note: what a reader must know of the figures.
    """

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str

    def as_rich(self) -> Table:
        """For a terminal of 80 columns."""
        table = Table(
            title=self.title, title_justify="left", caption=self.note, caption_justify="left", box=box.SIMPLE_HEAD
        )
        for number, name in enumerate(self.header):
            table.add_column(name, justify="right" if number else "left", no_wrap=number == 0, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table

    def as_markdown(self) -> str:
        """A section with the table and its note."""
        lines = [f"| {' | '.join(row)} |" for row in (self.header, *self.rows)]
        lines.insert(1, "|".join(["", "---", *["---:"] * (len(self.header) - 1), ""]))
        return "\n".join([f"## {self.title}", "", *lines, "", self.note, ""])


def make_tables(report: dict[str, Any]) -> list[ReportTable]:
    """The tables of a report: differences, MCC by place, what the weights do, and what random folds would say."""
    return [_differences(report), _mcc_by_place(report), _weights(report), _random_folds(report)]


def format_report(report: dict[str, Any]) -> Group:
    """The report for a terminal of 80 columns."""
    tables = [table.as_rich() for table in make_tables(report)]
    return Group(Text(_size(report)), *tables, *(Text(line) for line in _verdict_lines(report)))


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Writes `gps_experiment.json`, `.md` and `.png`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    write_json(folder / f"{STEM}.json", report)
    with atomic_path(folder / f"{STEM}.md") as temporary:
        temporary.write_text(_markdown(report), encoding="utf-8")
    with atomic_path(folder / f"{STEM}.png") as temporary:
        draw_report(report, temporary)


def _markdown(report: dict[str, Any]) -> str:
    head = ["# Does GPS weighting help here?", "", f"Made by `{report['command']}`.", "", _size(report), ""]
    verdict = ["## Verdict", "", *(f"{line}\n" for line in _verdict_lines(report))]
    picture = [f"![Differences between the arms, and MCC by distance]({STEM}.png)", ""]
    return "\n".join([*head, *verdict, *picture, *(table.as_markdown() for table in make_tables(report))])


def _size(report: dict[str, Any]) -> str:
    text = (
        f"{report['rows']:,} rows in {report['groups']:,} groups, {report['roadwork'] / report['rows']:.0%} Roadwork; "
        f"all splits but val_test. {report['seeds']} seeds of {report['folds']} folds, "
        f"{report['heads']['steps']} steps an arm. Deployment: {report['target_source']}. Features: {report['model']}."
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
    for arm in ARMS:
        against = [report["differences"].get(arm, {}).get(other) for other in (UNIFORM, PLACEBO)]
        cells = [_interval(difference[PRIMARY]) if difference else "" for difference in against]
        rows.append((arm, _mcc(report["arms"][arm][PRIMARY]), *cells))
    note = (
        "Each row of the data counts by its bracket's sampling weight. Mean over seeds of out-of-fold decisions; 95 % "
        "intervals by a bootstrap over groups and seeds, the same draws for all arms."
    )
    return ReportTable(
        "Deployment-weighted MCC (primary endpoint)", ("arm", "MCC", "above uniform", "above placebo"), rows, note
    )


def _mcc_by_place(report: dict[str, Any]) -> ReportTable:
    shown = [(number, bracket) for number, bracket in enumerate(report["brackets"]) if bracket["rows"]]
    rows = [
        ("rows", f"{report['rows']:,}", *(f"{bracket['rows']:,}" for _, bracket in shown), ""),
        ("groups", f"{report['groups']:,}", *(f"{bracket['groups']:,}" for _, bracket in shown), ""),
    ]
    for arm in ARMS:
        figures = report["arms"][arm]
        brackets = (_mcc(figures["by_bracket"][number]) for number, _ in shown)
        worst = f"{figures['worst_cell']['mcc']:.3f}" if figures["worst_cell"] else "-"
        rows.append((arm, _mcc(figures[OVERALL]), *brackets, worst))
    cells = report["cells"]
    note = (
        f"Worst cell: the lowest MCC of {cells['judged']} H3 cells of resolution {cells['resolution']} with at least "
        f"{cells['min_rows_a_label']} rows of either label; a lowest value is lower than it would be on more data."
    )
    return ReportTable("MCC by place", ("arm", "all", *(b["name"] for _, b in shown), "worst cell"), rows, note)


def _weights(report: dict[str, Any]) -> ReportTable:
    rows = [
        (
            arm,
            f"{figures['effective_rows']:,.0f}",
            f"{figures['effective_groups']:,.0f}",
            f"{figures['weight_label_correlation']:+.3f}",
            f"{figures['roadwork_share_drawn']:.1%}",
            f"{100 * (figures['roadwork_share_drawn'] - figures['roadwork_share']):+.1f}",
        )
        for arm, figures in report["arms"].items()
    ]
    note = (
        "Means over the training folds. Effective numbers: Kish's (sum w)²/sum w². Shift: of the class prior, by the "
        "weighting."
    )
    header = ("arm", "eff. rows", "eff. groups", "corr. with label", "Roadwork drawn", "shift in points")
    return ReportTable("What the weights do", header, rows, note)


def _random_folds(report: dict[str, Any]) -> ReportTable:
    figures = report["random_folds"]
    rows = [
        ("folds of whole groups", _mcc(figures["grouped_mcc"]), ""),
        ("folds of single rows (random: leaks)", _mcc(figures["mcc"]), _interval(figures["difference"])),
    ]
    note = "The same uniform arm, judged on folds that separate neighbours, and on folds that do not."
    return ReportTable("What a random split would report", ("split", "MCC", "too high by"), rows, note)


def _mcc(figure: dict[str, Any] | None) -> str:
    return "-" if figure is None else f"{figure['value']:.3f}"


def _interval(difference: dict[str, Any]) -> str:
    return f"{difference['value']:+.3f} ({difference['low']:+.3f}, {difference['high']:+.3f})"


def run_gps_experiment(
    cfg: DictConfig, heads: HeadSettings, *, n_folds: int, n_seeds: int, command: str
) -> tuple[Path, dict[str, Any]]:
    """Runs the experiment and writes its report to `outputs/<experiment>/gps/<UTC time>/`.

    Args:
        cfg: the composed configuration.
        heads: how heads are trained.
        n_folds: of each cross-validation.
        n_seeds: seeds 0 to n_seeds - 1.
        command: that makes the report again, for readers.

    Returns:
        The folder, and what `gps_experiment.json` in it holds.
    """
    settings = to_settings(cfg)
    experiment = prepare_experiment(settings, heads, n_folds)
    # The runs of `roadwork train` keep their own `latest` beside this folder.
    name = f"{settings.experiment}/gps"
    kept_seeds = Path(settings.output_dir) / name / "seeds"
    report = report_experiment(experiment, settings, range(n_seeds), kept_seeds)
    folder = Run.create(Path(settings.output_dir), name).folder
    Run(folder).write_manifest(data_fingerprint=experiment.table.fingerprint(), command=command)
    report |= {
        "command": command,
        "config": _jsonable(OmegaConf.to_container(cfg, resolve=True)),
        "versions": Run(folder).read_manifest()["versions"],
    }
    write_report(folder, report)
    Run(folder).write_manifest()
    return folder, report


def report_experiment(experiment: GpsExperiment, settings: Settings, seeds: range, kept_seeds: Path) -> dict[str, Any]:
    """Trains the arms over the seeds, and gives all figures with the verdict, ready for JSON."""
    sampler = build_sampler(experiment)
    results = run_seeds(experiment, sampler.cluster_centers, seeds, kept_seeds)
    evaluation = settings.evaluation
    figures = analyse(experiment, sampler, results, draws=evaluation.bootstrap_draws, seed=evaluation.seed)
    decimals = settings.privacy.coarsen_gps
    for arm in figures["arms"].values():
        if arm["worst_cell"]:
            arm["worst_cell"]["center_deg"] = round_positions(
                np.array(arm["worst_cell"]["center_deg"]), decimals
            ).tolist()
    model = settings.model
    weights = "pretrained" if model.pretrained else f"random weights of seed {settings.training.seed}"
    return {
        "verdict": decide_verdict(figures),
        "unreachable": unreachable_targets(round_positions(experiment.target_deg, decimals), experiment.table.gps),
        "target_source": experiment.target_source,
        "model": f"{model.name}, {weights}, frozen, {settings.data.img_size} px",
        "pretrained": model.pretrained,
        "backbone_sha256": experiment.backbone,
        "folds": experiment.n_folds,
        "heads": asdict(experiment.heads),
        **figures,
    }


def _jsonable(value: Any) -> Any:
    """The value with infinite numbers as text, since JSON has none."""
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_jsonable(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
