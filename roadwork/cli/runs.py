"""`roadwork runs`: which runs there are, and what they reached."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork.cli.app import app
from roadwork.cli.options import WIDTH, OutputDirOption

if TYPE_CHECKING:
    from roadwork.run_list import RunRow

_COLUMNS = (
    *("run", "state", "epochs", "best\nval_select", "val_test MCC,\n95 % interval", "opened", "calibrated"),
    "model,\nadapter",
)
_REVISION_DIGITS = 7


@app.command()
def runs(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="Only its runs, such as demo.")
    ] = None,
    output_dir: OutputDirOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON instead, exact.")] = False,
) -> None:
    """List the runs, the newest first: how far each came, and its figures. Opens nothing.

    `roadwork resume NAME` goes on with one that stopped. Example: roadwork runs demo
    """
    from roadwork.run_list import list_runs
    from roadwork.run_names import default_output_dir

    folder = output_dir or default_output_dir()
    rows = list_runs(folder, experiment)
    if as_json:
        print(json.dumps([asdict(row) | {"folder": str(row.folder)} for row in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"There is no run{f' of {experiment}' if experiment else ''} in {folder}.")
        return
    _print(rows)


def _print(rows: list[RunRow]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", min_width=22 if name == "run" else None)
    for row in rows:
        table.add_row(*_cells(row))
    console = Console(highlight=False, width=max(Console().width, WIDTH))  # in a narrower one columns vanish
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", markup=False, soft_wrap=True)


def _cells(row: RunRow) -> tuple[str, ...]:
    if row.epochs is None:
        return (escape(row.name), row.state, *(["–"] * (len(_COLUMNS) - 2)))
    interval = (
        "" if row.val_test_mcc_low is None else f"\n{_figure(row.val_test_mcc_low)} to {_figure(row.val_test_mcc_high)}"
    )
    revision = f"\n[dim]git {_shorten(row.git_revision)}[/dim]" if row.git_revision else ""
    return (
        f"{escape(row.name)}{revision}",
        row.state,
        f"{row.epochs}/{row.epochs_asked}",
        _figure(row.best_val_select_mcc),
        f"{_figure(row.val_test_mcc)}{interval}",
        str(row.val_test_openings),
        "yes" if row.calibrated else "no",
        f"{escape(row.model or '–')}\n{row.adapter}",
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _shorten(revision: str) -> str:
    commit, _, dirty = revision.partition("-")
    return commit[:_REVISION_DIGITS] + (" and edits" if dirty else "")
