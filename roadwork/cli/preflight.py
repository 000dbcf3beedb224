"""`roadwork preflight`: the checks before a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from roadwork.cli.app import FAILED, app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.preflight.checks import Check

_MARKS = {"ok": "✅", "warning": "⚠️ ", "blocker": "❌"}


@app.command()
def preflight(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list instead.")] = False,
) -> None:
    """Check environment, data, GPS, splits and cost before a run; exit code 1 on a blocker.

    Example: roadwork preflight --config configs/config.yaml data.root=photos
    """
    from roadwork.config import load_config
    from roadwork.preflight.checks import Preflight

    checks: list[Check] = []
    for check in Preflight(load_config(config, overrides or [])).run():
        checks.append(check)
        if not as_json:
            _print(check)
    blockers = sum(check.status == "blocker" for check in checks)
    if as_json:
        print(json.dumps([check.as_dict() for check in checks], indent=2, ensure_ascii=False))
    else:
        warned = sum(check.status == "warning" for check in checks)
        print(f"{len(checks)} checks. Blockers: {blockers}. Warnings: {warned}.")
    if blockers:
        raise typer.Exit(FAILED)


def _print(check: Check) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{_MARKS[check.status]} {check.name}: {check.found}", markup=False)
    if check.status != "ok" and check.fix:
        console.print(f"   → {check.fix}", markup=False)
