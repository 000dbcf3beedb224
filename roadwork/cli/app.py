"""Registers the commands, and turns a user's mistake into one message and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer
from rich.console import Console
from rich.logging import RichHandler

from roadwork import __version__
from roadwork.errors import ConfigError, RoadworkError, RunStoppedError

FAILED, WRONG_USAGE = 1, 2

app = typer.Typer(
    name="roadwork",
    help="Trains street-image detectors that hold up somewhere else on the map.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"roadwork {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "--verbose", help="Show what libraries log, too."),
) -> None:
    del version
    set_up_logging(verbose)


def set_up_logging(verbose: bool) -> None:
    """Shows roadwork's own messages on standard error; other libraries' only when asked."""
    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()  # in a file each message stays on its line, to be searched
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", force=True)
    logging.getLogger("roadwork").setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        warnings.filterwarnings("ignore", module=r"lightning\..*")


def quiet_lightning() -> None:
    """Keeps Lightning's remarks off the screen; it sets its own level when it is imported, so after that."""
    if not logging.getLogger("roadwork").isEnabledFor(logging.DEBUG):
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 failed, 2 wrong usage."""
    # Before torch is loaded. Its threads else spin while they wait for each other: beside one busy process a step of
    # the small ResNet then takes 1.6 times as long, and even alone 1.1 times (docs/EXPERIMENTS.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import roadwork.cli.map  # noqa: F401 -- as a name of its own it would hide the builtin
    from roadwork.cli import (  # noqa: F401
        calibrate,
        demo_data,
        ensemble,
        evaluate,
        experiment,
        export,
        models,
        predict,
        preflight,
        prepare,
        profile,
        report,
        resume,
        runs,
        serve,
        split,
        train,
        verify_export,
    )

    try:
        app(args=arguments)
    except RunStoppedError as error:
        Console(stderr=True).print(f"{error} Go on with {error.way_on}.", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except RoadworkError as error:
        _print_error(str(error))
        sys.exit(WRONG_USAGE if isinstance(error, ConfigError) else FAILED)
    except OSError as error:  # a full disk, a folder that may not be written
        _print_error(f"{error}. Check that the path is right, and may be read and written.")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)


def _print_error(message: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("Error: ", style="bold red", end="")
    console.print(message, markup=False)
