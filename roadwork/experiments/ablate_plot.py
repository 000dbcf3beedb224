"""The picture of an ablation: each arm's difference from the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from roadwork.experiments.ablate_analysis import BETTER, WORSE
from roadwork.experiments.gps_plot import check_plot_installed

# Okabe and Ito's colours, which all common kinds of colour vision tell apart; the markers do without colour.
_STYLES = {BETTER: ("#0072B2", "^"), WORSE: ("#D55E00", "v")}
_NOT_TOLD_APART = ("#555555", "o")


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
