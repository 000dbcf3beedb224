"""Progress on standard error: a bar on a terminal, else a log line every 30 seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0

T = TypeVar("T")


class ProgressLine:
    """Logs `what: done of total (share), time left`, at most one line every `SECONDS_BETWEEN_LINES`."""

    def __init__(self) -> None:
        self._started = self._last = time.monotonic()

    def log(self, what: str, done: float, total: float | None) -> None:
        """Logs a line if one is due."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        if not total or not done:
            logger.info("%s: %s done.", what, f"{done:,.0f}")
            return
        left = timedelta(seconds=round((now - self._started) * (total - done) / done))
        logger.info("%s: %s of %s (%.0f %%), %s left.", what, f"{done:,.0f}", f"{total:,.0f}", 100 * done / total, left)


class _LoggedProgress(Progress):
    """A progress display that logs lines, for output that is not a terminal (CI logs, nohup.out)."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._line = ProgressLine()

    def update(self, task_id: TaskID, **values: Any) -> None:
        super().update(task_id, **values)
        self._log(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._log(task_id)

    def _log(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        self._line.log(task.description, task.completed, task.total)


def new_progress() -> Progress:
    """A progress display: description, bar, count, time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    if console.is_terminal:
        return Progress(*columns, console=console, transient=True)
    return _LoggedProgress(*columns, console=console, disable=True)


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Yields `items` and shows how many of `total` are done."""
    with new_progress() as progress:
        yield from progress.track(items, total=total, description=description)
