"""`roadwork report`: all that a run shows, in one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roadwork.cli.app import app
from roadwork.errors import MissingExtraError


@app.command()
def report(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN]... [KEY=VALUE]...",
            help="Runs' folders, and overrides of their configurations such as privacy.blur=3.",
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="The file, instead of report.html in the run's folder, or in this one for several runs."),
    ] = None,
) -> None:
    """Write report.html: figures, curves, slices, the photos that were decided wrongly; or several runs side by side.

    Example: roadwork report outputs/demo/latest privacy.coarsen_gps=2 --out for-others.html
    """
    try:
        from roadwork.report.report import write_report
    except ModuleNotFoundError as error:
        if error.name not in {"jinja2", "markupsafe"}:
            raise
        raise MissingExtraError('A report needs Jinja2. Install it: pip install "roadwork-vision[report]"') from error
    from roadwork.runs import find_run_folder

    runs = [find_run_folder(Path(argument)) for argument in arguments if "=" not in argument]
    if not runs:
        raise typer.BadParameter("Name a run's folder, such as outputs/demo/latest.", param_hint="RUN")
    path = write_report(runs, [argument for argument in arguments if "=" in argument], out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, to be opened in a browser.")
