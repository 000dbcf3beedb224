"""`roadwork calibrate`: probabilities that can be believed, and the threshold to decide at."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

from roadwork.cli.app import app
from roadwork.cli.options import RunArgument


@app.command()
def calibrate(
    run: RunArgument,
    *,
    prior: Annotated[
        str, typer.Option(help="Share of Roadwork where the detector will be used: sample, balanced, or as 0.01.")
    ] = "sample",
    risk: Annotated[float, typer.Option(help="Share of photos that may be answered wrongly.")] = 0.05,
    cost_miss: Annotated[float, typer.Option(help="Cost of a roadwork missed, in any unit.")] = 1.0,
    cost_false_alarm: Annotated[float, typer.Option(help="Cost of a false alarm, in the same unit.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Fit temperature, threshold and when to abstain, on val_calib's predictions; then open val_test at the threshold.

    `roadwork evaluate RUN` comes first. Example: roadwork calibrate outputs/demo/latest --prior 0.01
    """
    from roadwork.calibration.calibrate import CalibrationOptions
    from roadwork.calibration.figures import Costs
    from roadwork.calibration.priors import parse_prior
    from roadwork.calibration.run import RESULT_KEY, calibrate_run
    from roadwork.calibration.show import format_calibration, format_test
    from roadwork.runs import find_run_folder

    options = CalibrationOptions(parse_prior(prior), risk, Costs(cost_miss, cost_false_alarm))
    calibration, result = calibrate_run(find_run_folder(run), options)
    if as_json:
        print(json.dumps({"calibration": calibration, RESULT_KEY: result}, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(format_calibration(calibration))
    if result is not None:
        console.print(format_test(result))
    print(f"Written: {run}/calibration.json, and probability_calibrated in predictions.parquet")
