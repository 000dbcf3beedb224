"""The picture of the experiment on GPS weighting."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roadwork.errors import MissingExtraError
from roadwork.experiments.arms import ARMS, PLACEBO, UNIFORM
from roadwork.experiments.gps_analysis import OVERALL, PRIMARY

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
