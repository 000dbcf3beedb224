"""`roadwork experiment`: what takes several runs to answer."""

from __future__ import annotations

import typer

from roadwork.cli.app import app

experiment_app = typer.Typer(
    name="experiment",
    help="Answer questions that take several runs, without opening val_test.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.add_typer(experiment_app)

# They register themselves on the application above.
from roadwork.cli import experiment_ablate, experiment_cv, experiment_gps  # noqa: E402, F401
