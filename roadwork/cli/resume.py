"""`roadwork resume`: goes on with a run by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from roadwork.cli.app import app, quiet_lightning
from roadwork.cli.options import OutputDirOption, Overrides


@app.command()
def resume(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="As `roadwork runs` prints it, its beginning, its experiment, or a folder."
        ),
    ],
    overrides: Overrides = None,
    output_dir: OutputDirOption = None,
) -> None:
    """Go on with a run where it stopped, in the middle of an epoch if it was there, in the same folder.

    It has its own configuration; training.epochs and training.patience may be raised, and keys of the machine set.
    Example: roadwork resume demo training.epochs=20
    """
    from roadwork.cli.train import prove_and_train
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.run_names import default_output_dir, read_run_config, resolve_run

    quiet_lightning()
    folder = resolve_run(name, output_dir or default_output_dir())
    prove_and_train(NATIXDataModule(read_run_config(folder, overrides or [])), folder)
