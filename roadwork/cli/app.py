"""The Typer application and the options that commands share."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from roadwork import __version__

DEFAULT_CONFIG = Path("configs/config.yaml")

# Columns that wide tables are laid out for; what is piped would else get 80.
WIDTH = 100
FAILED, WRONG_USAGE = 1, 2


ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="A configuration file.")]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as training.epochs=5 or model=vit_base."),
]


RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as outputs/demo/latest.")]


OutputDirOption = Annotated[
    Path | None, typer.Option("--output-dir", help="Where runs are; else output_dir of configs/config.yaml.")
]


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
