"""The experiment on GPS weighting as tables, for a terminal and for Markdown, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.experiments.arms import ARMS, PLACEBO, UNIFORM
from roadwork.experiments.gps_analysis import OVERALL, PRIMARY
from roadwork.experiments.gps_plot import draw_report
from roadwork.runs import atomic_path, write_json

STEM = "gps_experiment"


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
