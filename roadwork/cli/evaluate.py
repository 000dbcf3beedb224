"""Evaluation commands: evaluate, calibrate, report, ensemble."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roadwork.cli.app import RunArgument, app, quiet_lightning
from roadwork.core.errors import MissingExtraError

if TYPE_CHECKING:
    from roadwork.calibration.across import AcrossRows
    from roadwork.evaluation.ensemble import EnsembleSummary
    from roadwork.runs.run import Run


@app.command(rich_help_panel="Evaluate")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder; with --on also an exported model folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Settings of the dataset of --on, such as data.columns.label=NAME."
        ),
    ] = None,
    *,
    profile: Annotated[
        str | None,
        typer.Option(help="Evaluate like a StreetVision validator: streetvision-2026-01 or streetvision-2026-05."),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET",
            help="Evaluate on another labelled dataset instead: a folder, pairs.csv, parquet files or a hub name.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results of --on. Default: RUN/on/DATASET or outputs/on/MODEL/DATASET."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results of --on as JSON.")] = False,
) -> None:
    """Evaluate the best checkpoint on val_test.

    Prints MCC and other metrics with 95 % intervals. manifest.json counts each opening of val_test.
    With --on, photos that training has seen are excluded, val_test stays closed, and KEY=VALUE describes the dataset.

    Example: roadwork evaluate outputs/demo/latest

    Example: roadwork evaluate outputs/demo/latest --on data/other-city data.columns.label=is_roadwork
    """
    if on is not None:
        if profile is not None:
            raise typer.BadParameter("it judges val_test, and --on another dataset.", param_hint="--profile")
        _evaluate_elsewhere(run, on, overrides or [], out, as_json=as_json)
        return
    for given, hint in ((overrides, "KEY=VALUE"), (out, "--out"), (as_json, "--json")):
        if given:
            raise typer.BadParameter("it belongs to --on.", param_hint=hint)
    if profile is not None:
        _evaluate_profile(run, profile)
        return
    from roadwork.evaluation.evaluate import evaluate_run
    from roadwork.metrics.results import format_results
    from roadwork.runs.run import Run
    from roadwork.settings.sampling import TEST_SPLIT

    quiet_lightning()
    folder = Run.open(run).folder
    result = evaluate_run(folder)[TEST_SPLIT]
    Console().print(format_results(TEST_SPLIT, result))
    print(
        f"{TEST_SPLIT} was opened {result['openings']} time(s) for this run. "
        f"Written: {run}/results.json and predictions.parquet"
    )
    if Run(folder).calibration_file.is_file():
        print(f"{run}/calibration.json was fitted on earlier predictions. Calibrate again.")
    print(f"Next: roadwork calibrate {run}, roadwork map {run}")


def _evaluate_elsewhere(model: Path, on: str, overrides: list[str], out: Path | None, *, as_json: bool) -> None:
    from roadwork.evaluation.elsewhere import evaluate_elsewhere
    from roadwork.evaluation.elsewhere_results import format_elsewhere

    quiet_lightning()
    result, folder = evaluate_elsewhere(model, on, overrides, out)
    if as_json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    Console().print(format_elsewhere(result))
    print(f"Written: results.json, predictions.parquet and excluded.csv in {folder}")


def _evaluate_profile(run: Path, profile: str) -> None:
    from roadwork.evaluation.streetvision.evaluate import evaluate_profile, format_profile, predictions_file
    from roadwork.runs.run import Run

    quiet_lightning()
    folder = Run.open(run).folder
    result = evaluate_profile(folder, profile)
    Console().print(format_profile(result))
    print(f"val_test was opened {result['openings']} time(s) for this run.")
    print(f"Written: {run}/results.json and {predictions_file(profile)}")
    if not Run(folder).calibration_file.is_file():
        print(f"The run is not calibrated. Run `roadwork calibrate {run}` first to see the result of an export.")


@app.command(rich_help_panel="Evaluate")
def calibrate(
    run: RunArgument,
    *,
    prior: Annotated[
        str, typer.Option(help="Share of Roadwork in deployment: sample, balanced, or a number such as 0.01.")
    ] = "sample",
    risk: Annotated[float, typer.Option(help="Accepted error rate; uncertain photos abstain to reach it.")] = 0.05,
    cost_miss: Annotated[float, typer.Option(help="Cost of missed roadwork, in any unit.")] = 1.0,
    cost_false_alarm: Annotated[float, typer.Option(help="Cost of a false alarm, in the same unit.")] = 1.0,
    across: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Fit them for unseen places: train folds that leave out the regions of this column (such as source "
            "or city), or h3 for H3 cells.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit temperature, threshold and abstention on val_calib.

    Evaluates val_test afterwards. Run `roadwork evaluate RUN` first.

    --across trains up to five networks as this run was trained, in RUN/across; finished ones are reused.

    Example: roadwork calibrate outputs/demo/latest --prior 0.01
    """
    from roadwork.calibration.calibrate import CalibrationOptions
    from roadwork.calibration.figures import Costs, parse_prior
    from roadwork.calibration.run import calibrate_run, format_calibration, format_test
    from roadwork.runs.run import CALIBRATED_RESULT, Run

    options = CalibrationOptions(parse_prior(prior), risk, Costs(cost_miss, cost_false_alarm))
    source = Run.open(run)
    predicted = None if across is None else _predict_across(source, across)
    calibration, result = calibrate_run(source.folder, options, predicted)
    if as_json:
        print(json.dumps({"calibration": calibration, CALIBRATED_RESULT: result}, indent=2, ensure_ascii=False))
        return
    console = Console()
    console.print(format_calibration(calibration))
    if result is not None:
        console.print(format_test(result))
    print(f"Written: {run}/calibration.json, and probability_calibrated in predictions.parquet")


def _predict_across(run: Run, column: str) -> AcrossRows:
    """Trains the unfinished folds of whole regions; progress goes to standard error, because of --json."""
    from roadwork.cli.experiments import show, train_fold_shown
    from roadwork.experiments.cross_validation import plan_across, pool_across
    from roadwork.experiments.plan import run_fits

    quiet_lightning()
    with redirect_stdout(sys.stderr):
        plan = plan_across(run, column)
        show(f"{len(plan.fits)} folds of whole regions, stored in {plan.folder}")
        run_fits(plan, train_fold_shown, show)
        return pool_across(plan)


@app.command(rich_help_panel="Evaluate")
def report(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN]... [KEY=VALUE]...",
            help="Run folders, and overrides such as privacy.blur=3.",
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output file. Default: report.html in the run folder, or in the current folder for several runs."
        ),
    ] = None,
) -> None:
    """Write an HTML report of a run, or a comparison of runs.

    It has metrics, curves, slices and misclassified photos.

    Example: roadwork report outputs/demo/latest privacy.coarsen_gps=2
    """
    try:
        from roadwork.report.report import write_report
    except ModuleNotFoundError as error:
        if error.name not in {"jinja2", "markupsafe"}:
            raise
        raise MissingExtraError('A report needs Jinja2. Install it: pip install "roadwork-vision[report]"') from error
    from roadwork.runs.run import Run

    runs = [Run.open(Path(argument)).folder for argument in arguments if "=" not in argument]
    if not runs:
        raise typer.BadParameter("Name a run folder, such as outputs/demo/latest.", param_hint="RUN")
    path = write_report(runs, [argument for argument in arguments if "=" in argument], out)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB. Open it in a browser.")


@app.command(rich_help_panel="Evaluate")
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN [RUN]...", help="Folders of evaluated runs.")],
    *,
    out_experiment: Annotated[
        str | None, typer.Option(help="Experiment name. Default: name of the first run plus -ensemble.")
    ] = None,
) -> None:
    """Average the logits of several runs.

    The runs need the same data and splits. The result is a run folder to calibrate, report and export.

    Example: roadwork ensemble outputs/seed0/latest outputs/seed1/latest
    """
    from roadwork.evaluation.ensemble import create_ensemble
    from roadwork.metrics.results import format_results
    from roadwork.runs.run import Run
    from roadwork.settings.sampling import TEST_SPLIT

    summary = create_ensemble([Run.open(run).folder for run in runs], out_experiment)
    Console().print(format_results(TEST_SPLIT, summary.result))
    _print_members(summary)
    print(f"{TEST_SPLIT} was opened {summary.result['openings']} time(s), by the runs and by this ensemble.")
    print(f"Written: {summary.folder}")
    print(f"Next: roadwork calibrate {summary.folder}, then roadwork export {summary.folder} --out DIR")


def _print_members(summary: EnsembleSummary) -> None:
    print("MCC on val_select at 0.5:")
    for folder, figure in summary.members.items():
        print(f"  {figure:.4f}  {folder}")
    print(f"  {summary.val_select_mcc:.4f}  mean of the logits")
