"""`roadwork split`: writes splits.json, or verifies one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from roadwork.cli.app import FAILED, app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.data.splitting.verification import Verification
    from roadwork.settings import Settings


@app.command()
def split(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the splits file that is there, ours or your own; write nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Make the four splits and write splits.json beside the data; or verify a file: exit code 1 where anything leaks.

    Example: roadwork split data.root=photos data.splitting.seed=7

    Example: roadwork split --verify data.root=photos data.splits_file=mine.json
    """
    from roadwork.config import load_config, to_settings

    if as_json and not verify:
        raise typer.BadParameter("it belongs to --verify.", param_hint="--json")
    settings = to_settings(load_config(config, overrides or []))
    if verify:
        _verify(settings, as_json)
    else:
        _make(settings)


def _make(settings: Settings) -> None:
    from roadwork.data.source import check_may_replace, find_groups, read_dataset, splits_path
    from roadwork.data.splits import make_splits
    from roadwork.data.splits_check import check_splits
    from roadwork.data.splitting.train_only import place_train_only

    path = splits_path(settings)
    check_may_replace(path)
    table, source = read_dataset(settings.data)
    groups = find_groups(settings.data, table, source)
    splits = make_splits(table, groups, settings.data.splits, settings.data.splitting)
    report = check_splits(place_train_only(splits, table, groups), table, groups)
    splits.write(path)
    print(f"{path}: {report}")
    for note in (*groups.notes, *report.warnings):
        print(f"Note: {note}")


def _verify(settings: Settings, as_json: bool) -> None:
    from roadwork.data.splitting.verification import verify_splits

    verification = verify_splits(settings)
    if as_json:
        print(json.dumps(verification.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(verification)
    if not verification.leaks_nothing:
        raise typer.Exit(FAILED)


def _show(verification: Verification) -> None:
    from roadwork.data.splits_check import BY_DESIGN

    report = verification.report
    print(
        f"{verification.file}: {f'{verification.strategy} splits' if verification.strategy else 'splits of your own'}"
    )
    print(f"Fingerprint of the data: {verification.fingerprint}")
    Console().print(_table(verification))
    print(f"Set aside: {report.set_aside:,} rows")
    if report.closest:
        print("Closest rows of each two splits:")
    for pair in report.closest:
        print(f"   {pair}")
    print(verification.comparison)
    for note in (*report.share_warnings, *verification.notes):
        print(f"Note: {note}")
    for leak in report.leaks:
        print(f"❌ {leak.what}: {leak.count:,}")
        for pair in leak.examples:
            print(f"   {pair}")
    if verification.leaks_by_design:
        print(f"❌ This is {BY_DESIGN}")
    elif verification.leaks_nothing:
        print("✅ Nothing leaks.")


def _table(verification: Verification) -> Table:
    report = verification.report
    table = Table(
        "split", *(Column(name, justify="right") for name in ("rows", "share", "ratio", "Roadwork", "groups"))
    )
    for name, rows in report.rows.items():
        table.add_row(
            name,
            f"{rows:,}",
            f"{report.shares[name]:.1%}",
            f"{verification.ratios[name]:.1%}",
            f"{report.positive_share[name]:.1%}",
            f"{report.groups[name]:,}",
        )
    return table
