"""Interleaved timing of contenders on the same work, with speed ratios per repetition."""

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
    """An implementation to time.

    Attributes:
        name: the name in the table.
        run: does the work once and returns the number of processed images. It may also return the seconds, if it
            excludes a part of its work from the timing. All contenders do the same work.
    """

    name: str
    run: Callable[[], int | tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """One row of the table: a contender's speed, and our speed relative to it.

    Attributes:
        task: the measured task.
        name: the contender's name.
        images_per_s, images_per_s_low, images_per_s_high: median, slowest and fastest repetition.
        ours_ratio, ours_ratio_low, ours_ratio_high: our speed over this contender's in the same repetition; median,
            minimum and maximum. None for our own row.
        note: further information, such as a mean pixel difference.
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
    """Returns the speed of each contender in each repetition, in images per second.

    Each repetition runs all contenders, so that load on the machine affects all of them. The order is reversed in every
    second repetition.

    Args:
        contenders: have unique names.
        repeats: timed runs per contender.
        warmups: untimed runs per contender before these, for caches and kernel compilation.
    """
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    with new_progress() as progress:
        task = progress.add_task("Measuring", total=(warmups + repeats) * len(contenders))
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
    """Returns one row per contender, with the median, minimum and maximum of the ratios per repetition."""
    lines = []
    for name, values in speeds.items():
        ratios = [mine / theirs for mine, theirs in zip(speeds[ours], values, strict=True)] if name != ours else []
        spread = (median(ratios), min(ratios), max(ratios)) if ratios else (None, None, None)
        lines.append(Line(task, name, median(values), min(values), max(values), *spread, (notes or {}).get(name, "")))
    return lines


def as_table(lines: Sequence[Line], title: str) -> Table:
    """Formats the rows as a table."""
    table = Table("task", "contender", "images/s (slowest to fastest)", "ours / this", "", title=title)
    for line in lines:
        speed = f"{line.images_per_s:.3g} ({line.images_per_s_low:.3g} to {line.images_per_s_high:.3g})"
        ratio = ""
        if line.ours_ratio is not None:
            ratio = f"{line.ours_ratio:.3g} ({line.ours_ratio_low:.3g} to {line.ours_ratio_high:.3g})"
        table.add_row(line.task, line.name, speed, ratio, line.note)
    return table


def show(lines: Sequence[Line], title: str, json_file: Path | None, **facts: Any) -> None:
    """Prints the table. Writes it to `json_file` with the machine, the date and `facts`."""
    Console().print(as_table(lines, title))
    if json_file:
        written = machine() | facts | {"lines": [asdict(line) for line in lines]}
        json_file.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def machine() -> dict[str, str]:
    """Returns the date, the machine and the torch version of the measurement."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, {device}, Python {platform.python_version()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
    }
