"""`roadwork ensemble`: several runs, averaged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roadwork.cli.app import app

if TYPE_CHECKING:
    from roadwork.ensemble.create import EnsembleSummary


@app.command()
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN [RUN]...", help="Folders of evaluated runs.")],
    *,
    out_experiment: Annotated[
        str | None, typer.Option(help="Name of the folder in outputs/, instead of the first run's with -ensemble.")
    ] = None,
) -> None:
    """Average the logits of runs on the same data and splits, into a folder that comes after `evaluate` as a run does.

    Example: roadwork ensemble outputs/seed0/latest outputs/seed1/latest outputs/seed2/latest
    """
    from roadwork.ensemble.create import create_ensemble
    from roadwork.evaluation.evaluate import TEST_SPLIT
    from roadwork.evaluation.results import format_results
    from roadwork.runs import find_run_folder

    summary = create_ensemble([find_run_folder(run) for run in runs], out_experiment)
    Console().print(format_results(TEST_SPLIT, summary.result))
    _print_members(summary)
    print(
        f"{TEST_SPLIT}: no label was opened anew; {summary.result['openings']} looks at it are counted, the runs' own "
        "and this one."
    )
    print(f"Written: {summary.folder}")
    print(f"Next: roadwork calibrate {summary.folder}, then roadwork export {summary.folder} --out DIR")


def _print_members(summary: EnsembleSummary) -> None:
    print("MCC on val_select at 0.5:")
    for folder, figure in summary.members.items():
        print(f"  {figure:.4f}  {folder}")
    print(f"  {summary.val_select_mcc:.4f}  their mean logits")
