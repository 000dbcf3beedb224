"""Experiment commands: ablate, cv, gps, size."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from roadwork.cli.app import DEFAULT_CONFIG, ConfigOption, Overrides, app, quiet_lightning

if TYPE_CHECKING:
    import pandas as pd

    from roadwork.experiments.plan import Fit, Plan

_REGIONS_SHOWN = 3


experiment_app = typer.Typer(
    name="experiment",
    help="Run experiments with several fits. None opens val_test.\n\n"
    "Example: roadwork experiment cv --config configs/experiment/demo.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


app.add_typer(experiment_app, rich_help_panel="Experiments")


@experiment_app.command("ablate")
def ablate(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    conditions: Annotated[str, typer.Option(help="Conditions: parts, adapters, or names such as plain,ema.")] = "parts",
    arms: Annotated[str | None, typer.Option(hidden=True, help="The former name of --conditions.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds; seed s holds out fold s.")] = 5,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Train every seed on every fold.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps per fit, rounded to epochs. Default: training.epochs.")
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="FOLDER", help="Resume this ablation, or `latest`.")] = None,
) -> None:
    """Measure the effect of each component or adapter.

    Compares paired fits with equal steps. --resume continues an interrupted ablation.

    Example: roadwork experiment ablate --conditions adapters --seeds 3
    """
    from roadwork.config import load_config
    from roadwork.experiments.ablation_fit import run_ablation
    from roadwork.experiments.ablation_plan import Design, plan_ablation
    from roadwork.experiments.ablation_report import STEM, format_report, report_ablation
    from roadwork.experiments.comparison import check_installed

    quiet_lightning()
    check_installed("matplotlib", "The plot")
    conditions = arms or conditions
    cfg = load_config(config, overrides or [])
    plan = plan_ablation(cfg, Design(conditions, seeds, folds, full, steps), resume)
    print(f"Conditions: {', '.join(plan.conditions)}. {len(plan.fits)} fits, stored in {plan.folder}", flush=True)
    with _log_warnings_once():
        run_ablation(plan, show)
    command = ["roadwork", "experiment", "ablate", "--config", str(config), "--conditions", conditions]
    command += ["--seeds", str(seeds), "--folds", str(folds)]
    command += [*(["--full"] if full else []), *(["--steps", str(steps)] if steps else [])]
    report = report_ablation(plan, shlex.join([*command, *(overrides or [])]))
    Console().print(format_report(report))
    print(f"val_test was not opened. Written: {plan.folder}/{STEM}.json, .md and .png")


def show(line: str) -> None:
    print(line, flush=True)


@contextmanager
def _log_warnings_once() -> Iterator[None]:
    """Hides repeated messages about the same data and network; each warning is shown once."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in seen
        seen.add(message)
        return not is_known and record.levelno >= logging.WARNING

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


class By(StrEnum):
    """What to hold out instead of groups."""

    region = "region"


@experiment_app.command("cv")
def cv(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds.")] = 5,
    by: Annotated[By | None, typer.Option(help="Hold out whole regions instead of groups.")] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Resume this cross-validation, or `latest`.")
    ] = None,
    no_audit: Annotated[bool, typer.Option("--no-audit", help="Do not list suspicious labels.")] = False,
) -> None:
    """Cross-validate and list suspicious labels.

    Uses all splits but val_test, in folds of whole groups. --resume continues an interrupted one.

    Example: roadwork experiment cv --config configs/experiment/demo.yaml
    """
    from roadwork.config import load_config
    from roadwork.experiments.cross_validation import plan_cross_validation, pool_folds
    from roadwork.experiments.label_audit import check_audit_installed
    from roadwork.experiments.plan import run_fits
    from roadwork.metrics.results import format_results

    quiet_lightning()
    if not no_audit:
        check_audit_installed()
    cfg = load_config(config, overrides or [])
    plan = plan_cross_validation(cfg, folds, by.value if by else None, resume)
    run_fits(plan, train_fold_shown, show)
    pooled, result = pool_folds(plan)
    Console().print(format_results(f"cross-validation, {len(result['folds'])} folds", result), _folds_table(result))
    print(f"val_test was not opened. Written: {plan.folder}/results.json and oof_predictions.parquet")
    if not no_audit:
        _audit(plan, pooled)


def train_fold_shown(fold: Fit, is_first: bool) -> pd.DataFrame:
    """Trains a fold; the first one prints the wiring table."""
    from roadwork.cli.train import print_wiring
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.experiments.cross_validation import train_fold
    from roadwork.preflight.dry_run import run_dry
    from roadwork.training.trainers.factory import prepare_trainer

    train, select, held_out = (f"{len(fold.splits.ids[name]):,}" for name in ("train", "val_select", "val_calib"))
    show(f"Fold {fold.fold + 1}: {train} training rows, {select} to select the checkpoint, {held_out} held out.")
    with _quiet_repeated_folds(repeated=not is_first):
        datamodule = NATIXDataModule(fold.cfg)
        if is_first:
            print_wiring(run_dry(datamodule, prepare_trainer(datamodule)))
        return train_fold(datamodule, fold)


@contextmanager
def _quiet_repeated_folds(*, repeated: bool) -> Iterator[None]:
    """Hides messages on data and sampling that the first fold has logged already."""
    logger = logging.getLogger("roadwork.data.datamodule")
    level = logger.level
    if repeated:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _folds_table(result: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("fold", "rows", "groups", "Roadwork", "errors", "MCC"):
        table.add_column(name, justify="right")
    if result["by"]:
        table.add_column("regions")
    for row in result["folds"]:
        counts = (f"{row[key]:,}" for key in ("n", "groups", "roadwork", "errors"))
        regions = row.get("regions", [])
        more = f" and {len(regions) - _REGIONS_SHOWN} more" if len(regions) > _REGIONS_SHOWN else ""
        shown = [", ".join(regions[:_REGIONS_SHOWN]) + more] if result["by"] else []
        table.add_row(str(row["fold"] + 1), *counts, f"{row['mcc']:.4f}", *shown)
    return table


def _audit(plan: Plan, pooled: pd.DataFrame) -> None:
    from roadwork.experiments.label_audit import audit_labels, write_label_audit

    audit = audit_labels(pooled, plan.settings.evaluation.target_mcc)
    page, table = write_label_audit(audit, plan)
    print(f"Label audit: {audit.sentence} See {page}")
    print(f"Next: fill in corrected_label there or in {table}, then set data.label_corrections=FILE")


@experiment_app.command("gps")
def gps(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, each with new folds and initial weights.")] = 5,
    folds: Annotated[int, typer.Option(min=2, help="Folds per cross-validation.")] = 5,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps per head, equal in all conditions.")] = 500,
) -> None:
    """Measure whether GPS weighting helps on your data.

    Trains heads on frozen features with GPS weights, uniform weights and shuffled GPS weights.

    Example: roadwork experiment gps --seeds 5 model=dinov2_base
    """
    from roadwork.config import load_config
    from roadwork.experiments.comparison import check_installed
    from roadwork.experiments.gps_report import STEM, format_report, run_gps_experiment
    from roadwork.experiments.heads import HeadSettings

    check_installed("matplotlib", "The plot")
    command = ["roadwork", "experiment", "gps", "--seeds", str(seeds), "--folds", str(folds), "--steps", str(steps)]
    command += ["--config", str(config), *(overrides or [])]
    cfg = load_config(config, overrides or [])
    folder, report = run_gps_experiment(
        cfg, HeadSettings(steps=steps), n_folds=folds, n_seeds=seeds, command=shlex.join(command)
    )
    Console().print(format_report(report), soft_wrap=False)
    print(f"val_test was not opened. Written: {folder}/{STEM}.json, .md and .png")


@experiment_app.command("size")
def size(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    sizes: Annotated[int, typer.Option(min=5, help="Number of training set sizes; the largest is all photos.")] = 6,
    ratio: Annotated[float, typer.Option(min=1.1, help="Of each size to the next smaller one.")] = 2.0,
    seeds: Annotated[int, typer.Option(min=2, help="Number of seeds; each draws sets of its own.")] = 3,
    folds: Annotated[int, typer.Option(min=2, help="Number of folds; the first one is held out.")] = 5,
    min_steps: Annotated[
        int | None, typer.Option(min=1, help="Fewest optimizer steps of a fit. Default: those of the largest size.")
    ] = None,
    label_error: Annotated[
        str | None,
        typer.Option(metavar="SHARE|FOLDER", help="Share of wrong labels, or a folder of `experiment cv` to audit."),
    ] = None,
    resume: Annotated[str | None, typer.Option(metavar="FOLDER", help="Resume this experiment, or `latest`.")] = None,
) -> None:
    """Measure how the MCC grows with the training photos, and how many the target MCC takes.

    The largest size trains for training.epochs, the others for as many steps, so
    that all converge alike. All fits are evaluated on one held-out fold. Finished
    fits are kept for --resume.

    Example: roadwork experiment size --config configs/experiment/demo.yaml --label-error 0.01
    """
    from roadwork.config import load_config
    from roadwork.experiments.comparison import check_installed
    from roadwork.experiments.size_plan import SizeDesign, plan_sizes, run_sizes
    from roadwork.experiments.size_report import STEM, format_report, read_label_error, report_sizes

    quiet_lightning()
    check_installed("matplotlib", "The plot")
    cfg = load_config(config, overrides or [])
    wrong = read_label_error(label_error, cfg.evaluation.target_mcc)
    plan = plan_sizes(cfg, SizeDesign(sizes, ratio, seeds, folds, min_steps), resume)
    print(f"Sizes: {', '.join(plan.conditions)}. {len(plan.fits)} fits, stored in {plan.folder}", flush=True)
    with _log_warnings_once():
        run_sizes(plan, show)
    command = ["roadwork", "experiment", "size", "--config", str(config), "--sizes", str(sizes), "--ratio", str(ratio)]
    command += ["--seeds", str(seeds), "--folds", str(folds), *(["--min-steps", str(min_steps)] if min_steps else [])]
    command += ["--label-error", label_error] if label_error else []
    report = report_sizes(plan, shlex.join([*command, *(overrides or [])]), wrong)
    Console().print(format_report(report))
    print(f"val_test was not opened. Written: {plan.folder}/{STEM}.json, .md and .svg")
