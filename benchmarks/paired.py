"""Contenders that take turns at the same work, and the ratios of their speeds within each turn."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from roadwork.core.progress import new_progress


@dataclass(frozen=True)
class Contender:
    """Something that is timed.

    Attributes:
        name: as the table shows it.
        run: does the work once and gives the number of images it did, and the seconds where it takes the time itself
            (a part of its work is not counted); the work of all contenders is the same.
    """

    name: str
    run: Callable[[], int | tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """A contender's speed over the repetitions, and how ours compares with it.

    Attributes:
        task: what was done.
        name: the contender.
        images_per_s, images_per_s_low, images_per_s_high: median, slowest and fastest repetition.
        ours_ratio, ours_ratio_low, ours_ratio_high: our speed over this contender's in the same repetition; median,
            lowest and highest. None for ours itself.
        note: what else is to be known, such as a mean difference of pixels.
    """

    task: str
    name: str
    images_per_s: float
    images_per_s_low: float
    images_per_s_high: float
    ours_ratio: float | None
    ours_ratio_low: float | None
    ours_ratio_high: float | None
    note: str = ""


def take_turns(contenders: Sequence[Contender], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Images per second of each contender in each repetition.

    Contenders take turns, so that a busy minute of the machine falls on all of them alike, and every second turn is in
    the opposite order.

    Args:
        contenders: with names that differ.
        repeats: how often each one is timed.
        warmups: how often each one runs before that, untimed: caches fill, kernels compile.
    """
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    with new_progress() as progress:
        task = progress.add_task("Measuring, in turns", total=(warmups + repeats) * len(contenders))
        for number in range(-warmups, repeats):
            for contender in contenders if number % 2 == 0 else contenders[::-1]:
                started = time.perf_counter()
                done = contender.run()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                n_images, seconds = done if isinstance(done, tuple) else (done, time.perf_counter() - started)
                if number >= 0:
                    speeds[contender.name].append(n_images / seconds)
                progress.advance(task)
    return speeds


def compare(task: str, ours: str, speeds: dict[str, list[float]], notes: dict[str, str] | None = None) -> list[Line]:
    """A line for each contender; ratios are taken within a repetition, then their median, lowest and highest."""
    lines = []
    for name, values in speeds.items():
        ratios = [mine / theirs for mine, theirs in zip(speeds[ours], values, strict=True)] if name != ours else []
        spread = (median(ratios), min(ratios), max(ratios)) if ratios else (None, None, None)
        lines.append(Line(task, name, median(values), min(values), max(values), *spread, (notes or {}).get(name, "")))
    return lines


def as_table(lines: Sequence[Line], title: str) -> Table:
    """The lines for people to read."""
    table = Table("task", "contender", "images/s (slowest to fastest)", "ours / this", "", title=title)
    for line in lines:
        speed = f"{line.images_per_s:.3g} ({line.images_per_s_low:.3g} to {line.images_per_s_high:.3g})"
        ratio = ""
        if line.ours_ratio is not None:
            ratio = f"{line.ours_ratio:.3g} ({line.ours_ratio_low:.3g} to {line.ours_ratio_high:.3g})"
        table.add_row(line.task, line.name, speed, ratio, line.note)
    return table


def show(lines: Sequence[Line], title: str, json_file: Path | None, **facts: Any) -> None:
    """Prints the table, and writes it to `json_file` with the machine, the date and `facts`."""
    Console().print(as_table(lines, title))
    if json_file:
        written = machine() | facts | {"lines": [asdict(line) for line in lines]}
        json_file.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, str]:
    """What the figures were measured on, and when."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {device}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
    }
