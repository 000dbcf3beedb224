"""`roadwork experiment gps`: whether GPS weighting helps on a user's own data."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer
from rich.console import Console

from roadwork.cli.experiment import experiment_app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides


@experiment_app.command("gps")
def gps(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions, each with other folds and initial weights.")] = 5,
    folds: Annotated[int, typer.Option(min=2, help="Folds of each cross-validation.")] = 5,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of each head, the same in every arm.")] = 500,
) -> None:
    """Answer whether GPS weighting helps on your data, without opening val_test.

    Heads on frozen features of the configured backbone draw by GPS, uniformly, and by a placebo (the same weights on
    shuffled GPS). Finished seeds are kept. Example: roadwork experiment gps --seeds 5 model=dinov2_base
    """
    from roadwork.config import load_config
    from roadwork.experiments.gps_plot import check_plot_installed
    from roadwork.experiments.gps_report import STEM, format_report
    from roadwork.experiments.gps_run import run_gps_experiment
    from roadwork.experiments.heads import HeadSettings

    check_plot_installed()
    command = ["roadwork", "experiment", "gps", "--seeds", str(seeds), "--folds", str(folds), "--steps", str(steps)]
    command += ["--config", str(config), *(overrides or [])]
    cfg = load_config(config, overrides or [])
    folder, report = run_gps_experiment(
        cfg, HeadSettings(steps=steps), n_folds=folds, n_seeds=seeds, command=shlex.join(command)
    )
    Console().print(format_report(report), soft_wrap=False)
    print(f"val_test was not opened. Written: {folder}/{STEM}.json, .md and .png")
