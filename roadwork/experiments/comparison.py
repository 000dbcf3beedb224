"""What the reports of the experiments share: intervals of differences, tables, plots and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table

from roadwork.core.errors import MissingExtraError
from roadwork.core.files import atomic_path, write_json
from roadwork.metrics.intervals import percentile_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A bootstrap only redraws the differences in the sample, so its interval is unreliable for fewer groups.
MIN_DIFFERING_GROUPS = 10


def summarise(values: np.ndarray, drawn: np.ndarray, single: str = "by_fit") -> dict[str, Any]:
    """Mean, 95 % interval and single values, ready for JSON.

    Args:
        values: (F,) one for each fit or seed.
        drawn: (draws,) bootstrap means.
        single: the key of the single values.
    """
    low, high = percentile_interval(drawn)
    return {"value": float(values.mean()), "low": low, "high": high, single: values.tolist()}


def format_difference(difference: dict[str, Any]) -> str:
    """A difference with its interval, such as `+0.012 (-0.004, +0.027)`."""
    return f"{difference['value']:+.3f} ({difference['low']:+.3f}, {difference['high']:+.3f})"


@dataclass(frozen=True)
class ReportTable:
    """A table of text cells; the first column holds names, and the note explains the other columns."""

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


def check_installed(package: str, user: str) -> None:
    """Checks for a package of the `report` extra, so that a command fails before hours of work, not after.

    Raises:
        MissingExtraError: it is not installed; the message names its user.
    """
    if find_spec(package) is None:
        raise MissingExtraError(f"{user} needs {package}. Install it: pip install 'roadwork-vision[report]'")


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    check_installed("matplotlib", "The plot")
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra

    return Figure(figsize=(width, height), layout="constrained")


def error_bars(metrics: Sequence[dict[str, Any]]) -> list[list[float]]:
    """(2, n) lengths of the intervals below and above their values, as matplotlib's `errorbar` expects."""
    return [[m["value"] - m["low"] for m in metrics], [m["high"] - m["value"] for m in metrics]]


def draw_differences(
    axes: Axes, differences: Sequence[dict[str, Any]], heights: Sequence[float], style: tuple[str, str],
    *, single: str = "by_fit", tick_offset: float = 0.0, label: str | None = None,
) -> None:  # fmt: skip
    """Draws differences, as `summarise` returns them, as horizontal intervals at these heights.

    The style is a colour and a marker. Each single value is a tick, `tick_offset` below the interval.
    """
    colour, marker = style
    axes.errorbar(
        [difference["value"] for difference in differences], heights, xerr=error_bars(differences), fmt=marker,
        color=colour, capsize=4, linewidth=2, markersize=7, label=label,
    )  # fmt: skip
    for difference, height in zip(differences, heights, strict=True):
        ticks = difference[single]
        axes.plot(ticks, [height + tick_offset] * len(ticks), "|", color=colour, alpha=0.6, markersize=8)


def label_differences(axes: Axes, names: Sequence[str], xlabel: str, title: str) -> None:
    """Names the rows of a plot of differences, from top to bottom, and marks zero."""
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(xlabel)
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.3)


def write_report_files(
    folder: Path, stem: str, report: dict[str, Any], markdown: str, draw: Callable[..., None], *, plot: str = "png"
) -> None:
    """Writes `<stem>.json` with the report, `<stem>.md`, and `<stem>.<plot>` by `draw(report, path)`."""
    write_json(folder / f"{stem}.json", report)
    with atomic_path(folder / f"{stem}.md") as temporary:
        temporary.write_text(markdown, encoding="utf-8")
    with atomic_path(folder / f"{stem}.{plot}") as temporary:
        draw(report, temporary)
