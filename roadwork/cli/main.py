"""The entry point: registers commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from rich.console import Console

from roadwork.cli.app import FAILED, WRONG_USAGE, app
from roadwork.core.errors import ConfigError, RoadworkError, RunStoppedError

# Importing a module registers its commands; this is their order in `roadwork --help`.
COMMAND_MODULES = ("data", "train", "evaluate", "export", "predict", "experiments", "config", "tools")


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 failed, 2 wrong usage."""
    # Set before torch is imported. With the default, OpenMP threads spin while they wait: beside one busy process a
    # step of the small ResNet takes 1.6 times as long, and alone 1.1 times (docs/EXPERIMENTS.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for module in COMMAND_MODULES:
        import_module(f"roadwork.cli.{module}")
    try:
        app(args=arguments)
    except RunStoppedError as error:
        Console(stderr=True).print(f"{error} Continue with {error.way_on}.", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except RoadworkError as error:
        _print_error(str(error))
        sys.exit(WRONG_USAGE if isinstance(error, ConfigError) else FAILED)
    except OSError as error:  # such as a full disk or a read-only folder
        _print_error(f"{error}. Check the path and its permissions.")
        sys.exit(FAILED)
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)


def _print_error(message: str) -> None:
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print("Error: ", style="bold red", end="")
    console.print(message, markup=False)
