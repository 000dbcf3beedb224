"""Calibrates a run folder and prints the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from roadwork.calibration.across import CUTS, AcrossRows, apply_across
from roadwork.calibration.calibrate import CalibrationOptions, calibrate
from roadwork.core.files import write_json
from roadwork.metrics.decision import probability
from roadwork.metrics.predictions import CALIBRATED_COLUMN, predicted_margins, read_predictions, write_predictions
from roadwork.metrics.results import evaluate_for
from roadwork.runs.run import CALIBRATED_RESULT, Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

_REGIONS_SHOWN = 20


def format_calibration(calibration: dict[str, Any]) -> Group:
    """A table of the metrics before and after, and one sentence each about temperature, threshold and abstention."""
    rows, fitted = calibration["rows"], calibration["rows_fitted"]
    title = Text.assemble(
        ("val_calib", "bold"),
        f": {rows['n']:,} rows in {rows['groups']:,} groups; temperature and threshold from {fitted['n']:,} in "
        f"{fitted['groups']:,}",
    )
    sentences = [calibration[part]["sentence"] for part in ("temperature_fit", "threshold_fit", "abstain")]
    shown = Group(title, _table(calibration), *map(_begin_bold, sentences))
    if "across" not in calibration:
        return shown
    across = calibration["across"]
    return Group(shown, _across_table(across), _begin_bold(across["sentence"]))


def _across_table(across: dict[str, Any]) -> Table:
    """Each figure at 0.5, at the threshold of val_calib, and at one fitted on the other regions."""
    caption = "  In percent: at 0.5, at val_calib's threshold, and at a threshold from the other regions."
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column(across["column"])
    for name in ("photos", "Roadwork", "balanced acc.", "recall", "false alarms"):
        table.add_column(name, justify="right")
    unseen = {"region": "all, weighted", "n": across["rows"], "roadwork": None, **across["unseen"]}
    shown = sorted(across["by_region"], key=lambda row: -row["n"])
    for row in (*shown[:_REGIONS_SHOWN], unseen):
        figures = (
            " ".join("  -" if row[cut][name] is None else f"{100 * row[cut][name]:3.0f}" for cut in CUTS)
            for name in ("balanced_accuracy", "recall", "false_alarm_rate")
        )
        roadwork = "" if row["roadwork"] is None else f"{row['roadwork']:,}"
        table.add_row(row["region"], f"{row['n']:,}", roadwork, *figures)
    if len(shown) > _REGIONS_SHOWN:
        table.add_row(f"and {len(shown) - _REGIONS_SHOWN:,} more in calibration.json")
    return table


def format_test(result: dict[str, Any]) -> Group:
    """A sentence about `val_test`, and one for each leak."""
    interval = "no MCC, because it has only one class"
    if result["mcc"] is not None:
        interval = f"MCC {result['mcc']:.4f} (95 % interval {result['mcc_low']:.4f} to {result['mcc_high']:.4f})"
    sentence = (
        f"val_test at {result['threshold']:.4g}: {interval}, {result['n']:,} rows in {result['groups']:,} groups; "
        f"its labels were opened {result['openings']} time(s) for this run."
    )
    leaks = [Text.assemble(("Leaks ", "bold red"), leak) for leak in result["leaks"]]
    return Group(_begin_bold(sentence), *leaks)


def _begin_bold(sentence: str) -> Text:
    first, rest = sentence.split(" ", 1)
    return Text.assemble((first, "bold"), " ", rest)


def _table(calibration: dict[str, Any]) -> Table:
    fit, choice = calibration["temperature_fit"], calibration["threshold_fit"]
    costs = calibration["costs"]
    origin = "the sample's" if calibration["prior_is_the_samples"] else "set by --prior"
    caption = (
        "  Measured on groups outside the fit. MCC, precision, recall and cost\n"
        f"  assume that {calibration['prior']:.3g} of photos show roadwork ({origin}).\n"
        f"  A miss costs {costs['miss']:g}, a false alarm {costs['false_alarm']:g}."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("metric")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    table.add_column("95 % interval", justify="center")
    table.add_column("meaning", style="dim")
    after = fit["after"] if fit["kept"] else fit["before"]
    for name, label, meaning in (
        ("nll", "NLL", "mean log loss"),
        ("brier", "Brier", "mean squared error"),
        ("ece", "ECE", "calibration error"),
    ):
        table.add_row(label, f"{fit['before'][name]:.4f}", f"{after[name]:.4f}", "", meaning)
    decided = choice["out_of_bag"] if choice["kept"] else choice["at_half"]
    for name, label, meaning in (
        ("mcc", "MCC", "1 perfect, 0 chance"),
        ("precision", "Precision", "correct among detected"),
        ("recall", "Recall", "detected among Roadwork"),
        ("cost", "Cost", "mean per photo"),
    ):
        interval = f"{_show(decided[f'{name}_low'])} to {_show(decided[f'{name}_high'])}"
        table.add_row(label, _show(choice["at_half"][name]), _show(decided[name]), interval, meaning)
    return table


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def calibrate_run(
    folder: Path, options: CalibrationOptions, across: AcrossRows | None = None
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The calibration on `val_calib`, and the metrics on `val_test` at the new threshold; the opening is counted.

    Args:
        folder: an evaluated run folder.
        options: prior, risk and costs.
        across: out-of-region predictions, for a threshold that fits unseen regions; None: of `val_calib` alone.

    Returns:
        The content of `calibration.json`, and of `val_test_calibrated` in `results.json`: None if `val_test` is empty.

    Raises:
        DataError: the run was not evaluated, or its `val_calib` cannot be used.
    """
    run = Run(folder)
    frame = read_predictions(run.predictions_file)
    settings = run.read_settings()
    calibration = calibrate(frame, options, draws=settings.evaluation.bootstrap_draws, seed=settings.evaluation.seed)
    if across is not None:
        calibration = apply_across(calibration, across)
    calibrated = probability(predicted_margins(frame), calibration["temperature"])
    frame = frame.drop(columns=CALIBRATED_COLUMN, errors="ignore")
    frame.insert(list(frame.columns).index("probability") + 1, CALIBRATED_COLUMN, calibrated)
    write_predictions(frame, run.predictions_file)
    write_json(run.calibration_file, calibration)
    result = _open_test(run, frame, calibration["threshold"], settings)
    run.write_manifest()
    return calibration, result


def _open_test(run: Run, frame: pd.DataFrame, threshold: float, settings: Settings) -> dict[str, Any] | None:
    rows = frame[frame["split"] == TEST_SPLIT]
    if rows.empty:
        return None
    results = run.read_results()
    opened = run.count_opening()
    result = evaluate_for(settings, rows.assign(probability=rows[CALIBRATED_COLUMN]), threshold)
    leaks = results.get(TEST_SPLIT, {}).get("leaks", [])
    result |= {"threshold": threshold, "openings": opened, "leaks": leaks}
    write_json(run.results_file, results | {CALIBRATED_RESULT: result})
    return result
