"""The command line: one module per task."""

from roadwork.cli.main import main

__all__ = ["main"]
