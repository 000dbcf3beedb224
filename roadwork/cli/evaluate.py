"""`roadwork evaluate`: the figures on val_test."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from roadwork.cli.app import app
from roadwork.cli.options import RunArgument


@app.command()
def evaluate(
    run: RunArgument,
    *,
    profile: Annotated[
        str | None,
        typer.Option(help="Ask as a StreetVision validator does: streetvision-2026-01 or streetvision-2026-05."),
    ] = None,
) -> None:
    """Open val_test on a run's best checkpoint: MCC and more, each with a 95 % interval.

    Each opening is counted in the run's manifest.json. Example: roadwork evaluate outputs/demo/latest
    """
    if profile is not None:
        _evaluate_profile(run, profile)
        return
    from roadwork.evaluation.evaluate import TEST_SPLIT, evaluate_run
    from roadwork.evaluation.results import format_results
    from roadwork.runs import find_run_folder

    folder = find_run_folder(run)
    result = evaluate_run(folder)[TEST_SPLIT]
    Console().print(format_results(TEST_SPLIT, result))
    print(
        f"{TEST_SPLIT} was opened {result['openings']} time(s) for this run. "
        f"Written: {run}/results.json and predictions.parquet"
    )
    if (folder / "calibration.json").is_file():
        print(f"{run}/calibration.json belongs to the predictions that were there before: calibrate again.")
    print(f"Next: roadwork calibrate {run}, roadwork map {run}")


def _evaluate_profile(run: Path, profile: str) -> None:
    from roadwork.evaluation.streetvision.evaluate import evaluate_profile, predictions_file
    from roadwork.evaluation.streetvision.show import format_profile
    from roadwork.runs import find_run_folder

    folder = find_run_folder(run)
    result = evaluate_profile(folder, profile)
    Console().print(format_profile(result))
    print(f"val_test was opened {result['openings']} time(s) for this run.")
    print(f"Written: {run}/results.json and {predictions_file(profile)}")
    if not (folder / "calibration.json").is_file():
        print(f"The run is not calibrated: `roadwork calibrate {run}` first, to see what an export of it would get.")
