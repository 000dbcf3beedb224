"""The command line: one small module a command."""

from roadwork.cli.app import main

__all__ = ["main"]
