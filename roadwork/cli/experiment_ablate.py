"""`roadwork experiment ablate`: what each part of the training is worth."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console

from roadwork.cli.app import quiet_lightning
from roadwork.cli.experiment import experiment_app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides


@experiment_app.command("ablate")
def ablate(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    arms: Annotated[str, typer.Option(help="parts, adapters, or names of one of them: plain,ema.")] = "parts",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds; seed s trains without fold s, and is judged on it.")] = 5,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation.")] = 5,
    full: Annotated[bool, typer.Option("--full", help="Every seed on every fold.")] = False,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps of each fit, to whole epochs; else training.epochs.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Go on with this ablation, or with `latest`.")
    ] = None,
) -> None:
    """Measure what each part or adapter is worth: paired fits at equal steps, without opening val_test.

    Finished fits are kept for --resume.
    Example: roadwork experiment ablate --config configs/experiment/demo.yaml --arms parts
    """
    from roadwork.config import load_config, to_settings
    from roadwork.experiments.ablate_plan import KIND, Design, plan_ablation
    from roadwork.experiments.ablate_report import STEM, format_report, report_ablation
    from roadwork.experiments.ablate_run import run_fits
    from roadwork.experiments.cv_plan import find_begun
    from roadwork.experiments.gps_plot import check_plot_installed

    quiet_lightning()
    check_plot_installed()
    cfg = load_config(config, overrides or [])
    begun = find_begun(to_settings(cfg), resume, KIND) if resume else None
    ablation = plan_ablation(cfg, Design(arms, seeds, folds, full, steps), begun)
    print(f"Arms: {', '.join(ablation.arms)}. {len(ablation.fits)} fits, stored in {ablation.folder}", flush=True)
    with _say_once():
        run_fits(ablation, lambda line: print(line, flush=True))
    command = ["roadwork", "experiment", "ablate", "--config", str(config), "--arms", arms, "--seeds", str(seeds)]
    command += ["--folds", str(folds), *(["--full"] if full else []), *(["--steps", str(steps)] if steps else [])]
    report = report_ablation(ablation, shlex.join([*command, *(overrides or [])]))
    Console().print(format_report(report))
    print(f"val_test was not opened. Written: {ablation.folder}/{STEM}.json, .md and .png")


@contextmanager
def _say_once() -> Iterator[None]:
    """Keeps what each fit would say of the same data and network again off the screen; warnings come once."""
    said: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_known = message in said
        said.add(message)
        return not is_known and record.levelno >= logging.WARNING

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)
