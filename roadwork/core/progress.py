"""Progress bars, on standard error, so that what a command prints can be piped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def new_progress() -> Progress:
    """A progress display: description, bar, count, time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def track(items: Iterable[T], total: int, description: str) -> Iterator[T]:
    """Passes on `items` while a bar shows how many of `total` are done."""
    with new_progress() as progress:
        yield from progress.track(items, total=total, description=description)
