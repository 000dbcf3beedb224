"""The Typer application and the options that commands share."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup
from typing_extensions import override

from roadwork import __version__

DEFAULT_CONFIG = Path("configs/config.yaml")

# Width of wide tables; rich would use 80 columns for piped output.
WIDTH = 100
FAILED, WRONG_USAGE = 1, 2

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="Configuration file.")]

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of configuration keys, such as training.epochs=5."),
]

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as outputs/demo/latest.")]

OutputDirOption = Annotated[
    Path | None, typer.Option("--output-dir", help="Folder of all runs. Default: output_dir of configs/config.yaml.")
]


PANELS = ("Data", "Train", "Evaluate", "Deploy", "Experiments", "Tools")  # in the order of a project


class _OrderedGroup(TyperGroup):
    """Lists commands in the order of `PANELS`; Typer would list sub-applications such as `experiment` last."""

    @override
    def list_commands(self, ctx: Any) -> list[str]:
        def panel(name: str) -> int:
            return PANELS.index(str(getattr(self.commands[name], "rich_help_panel", PANELS[-1])))

        return sorted(super().list_commands(ctx), key=panel)


app = typer.Typer(
    name="roadwork",
    cls=_OrderedGroup,
    help="Train, evaluate and deploy roadwork detectors for street photos.\n\n"
    "Example: roadwork train --config configs/config.yaml data.root=photos",
    no_args_is_help=True,
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
    verbose: bool = typer.Option(False, "--verbose", help="Also show messages of libraries."),
) -> None:
    del version
    set_up_logging(verbose)


def set_up_logging(verbose: bool) -> None:
    """Shows roadwork's messages on standard error; other libraries' messages with --verbose only."""
    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()  # one line per message if redirected to a file
    if console.is_terminal:
        handler = RichHandler(console=console, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], format="%(message)s", force=True)
    logging.getLogger("roadwork").setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:
        warnings.filterwarnings("ignore", module=r"lightning\..*")


def quiet_lightning() -> None:
    """Hides Lightning's messages. Call it after importing Lightning, which sets its own log level."""
    if not logging.getLogger("roadwork").isEnabledFor(logging.DEBUG):
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
