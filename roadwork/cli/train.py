"""Training commands: preflight, train, resume, runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork.cli.app import (
    DEFAULT_CONFIG,
    FAILED,
    WIDTH,
    ConfigOption,
    OutputDirOption,
    Overrides,
    app,
    quiet_lightning,
)

if TYPE_CHECKING:
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.preflight.checks import Check
    from roadwork.preflight.recorder import WireRow
    from roadwork.runs.listing import RunRow
    from roadwork.training.trainers.base_trainer import BaseTrainer

_MARKS = {"ok": "✅", "warning": "⚠️ ", "blocker": "❌"}
_COLUMNS = (
    *("run", "state", "epochs", "best\nval_select", "val_test MCC,\n95 % interval", "opened", "calibrated"),
    "model,\nadapter",
)
_REVISION_DIGITS = 7


@app.command(rich_help_panel="Train")
def preflight(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check environment, data, GPS, splits and cost.

    Run it before a long training. The exit code is 1 if a check is a blocker.

    Example: roadwork preflight --config configs/config.yaml data.root=photos
    """
    from roadwork.config import load_config
    from roadwork.preflight.checks import Preflight

    checks: list[Check] = []
    for check in Preflight(load_config(config, overrides or [])).run():
        checks.append(check)
        if not as_json:
            _print_checks(check)
    blockers = sum(check.status == "blocker" for check in checks)
    if as_json:
        print(json.dumps([check.as_dict() for check in checks], indent=2, ensure_ascii=False))
    else:
        warned = sum(check.status == "warning" for check in checks)
        print(f"{len(checks)} checks. Blockers: {blockers}. Warnings: {warned}.")
    if blockers:
        raise typer.Exit(FAILED)


def _print_checks(check: Check) -> None:
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{_MARKS[check.status]} {check.name}: {check.found}", markup=False)
    if check.status != "ok" and check.fix:
        console.print(f"   → {check.fix}", markup=False)


@app.command(rich_help_panel="Train")
def train(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the wiring table; save nothing.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the latest run of the experiment.")] = False,
) -> None:
    """Train a detector.

    First, two steps on real batches check that every component works (the wiring table).

    Example: roadwork train data.root=photos training.epochs=10
    """
    from roadwork.config import load_config
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.runs.run import Run

    quiet_lightning()
    datamodule = NATIXDataModule(load_config(config, overrides or []))
    resume_from = Run.open(_latest(datamodule)).folder if resume else None
    prove_and_train(datamodule, resume_from, dry_run=dry_run)


def prove_and_train(datamodule: NATIXDataModule, resume_from: Path | None, *, dry_run: bool = False) -> None:
    """Prints the wiring table from two steps on real batches, then trains or resumes a run."""
    from roadwork.core.errors import RunStoppedError
    from roadwork.preflight.dry_run import run_dry
    from roadwork.runs.listing import name_run
    from roadwork.runs.lock import check_unlocked
    from roadwork.training.distributed import ProcessGroup
    from roadwork.training.trainers.factory import prepare_trainer, set_batch_size
    from roadwork.training.trainers.resume import check_same_configuration

    group = ProcessGroup(datamodule.settings.training)
    wiring: list[WireRow] = []
    if group.is_rank_zero:
        if resume_from:
            print(f"Resuming {resume_from}")
            check_unlocked(resume_from)
        trainer = prepare_trainer(datamodule, resume_from)
        if resume_from:
            check_same_configuration(resume_from, datamodule.cfg)  # before the dry run, which takes time
        wiring = run_dry(datamodule, trainer)
        _print_callbacks(trainer)
        print_wiring(wiring)
    if dry_run:
        return
    set_batch_size(group.broadcast(datamodule.settings.data.dataloader.fixed_batch_size), datamodule)
    if not group.is_rank_zero:
        trainer = prepare_trainer(datamodule)
    try:
        folder = trainer.fit(datamodule, resume_from, [asdict(row) for row in wiring], group)
    except RunStoppedError as error:
        if not group.is_rank_zero:  # rank zero reports it
            return
        error.way_on = f"`roadwork resume {name_run(trainer.run_folder)}`"
        raise
    if not group.is_rank_zero:
        return
    epochs, latest = trainer.trainer.current_epoch, _latest(datamodule)
    print(f"Best val_select MCC {trainer.mcc_callback.best_mcc:.4f} in {epochs} epochs. The run is in {folder}")
    print(f"Next: roadwork evaluate {latest if latest.resolve() == folder.resolve() else folder}")


def _latest(datamodule: NATIXDataModule) -> Path:
    return Path(datamodule.settings.output_dir) / datamodule.settings.experiment / "latest"


def _print_callbacks(trainer: BaseTrainer) -> None:
    if hasattr(trainer, "mcc_callback"):
        print("✅ MCC callback initialized")
    if hasattr(trainer, "ema_callback"):
        print(f"✅ EMA callback initialized (decay={trainer.ema_callback.decay})")


def print_wiring(rows: list[WireRow]) -> None:
    """Prints the wiring table; exits with code 1 if a check failed."""
    table = Table("", "Check", "Observed on real batches", title="Wiring", title_justify="left")
    for row in rows:
        table.add_row("✅" if row.works else "❌", row.wire, row.observed)
    Console().print(table)
    failed = [row for row in rows if not row.works]
    for row in failed:
        print(f"❌ {row.wire}: {row.fix}.")
    print(f"{len(rows) - len(failed)} of {len(rows)} checks passed." + (" Do not train yet." if failed else ""))
    if failed:
        raise typer.Exit(FAILED)


@app.command(rich_help_panel="Train")
def resume(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Run name from `roadwork runs` or its prefix, an experiment, or a folder."),
    ],
    overrides: Overrides = None,
    output_dir: OutputDirOption = None,
) -> None:
    """Resume a stopped run, also inside an epoch.

    The run keeps its folder and configuration. You can raise training.epochs and training.patience,
    and set machine-specific keys.

    Example: roadwork resume demo training.epochs=20
    """
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.runs.listing import default_output_dir, read_run_config, resolve_run

    quiet_lightning()
    folder = resolve_run(name, output_dir or default_output_dir())
    prove_and_train(NATIXDataModule(read_run_config(folder, overrides or [])), folder)


@app.command(rich_help_panel="Train")
def runs(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[EXPERIMENT]", help="List only runs of this experiment, such as demo.")
    ] = None,
    output_dir: OutputDirOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs with state and metrics, newest first.

    `roadwork resume NAME` continues a stopped run.

    Example: roadwork runs demo
    """
    from roadwork.runs.listing import default_output_dir, list_runs

    folder = output_dir or default_output_dir()
    rows = list_runs(folder, experiment)
    if as_json:
        print(json.dumps([asdict(row) | {"folder": str(row.folder)} for row in rows], indent=2, ensure_ascii=False))
        return
    if not rows:
        print(f"No runs{f' of {experiment}' if experiment else ''} in {folder}.")
        return
    _print_runs(rows)


def _print_runs(rows: list[RunRow]) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", min_width=22 if name == "run" else None)
    for row in rows:
        table.add_row(*_cells(row))
    console = Console(highlight=False, width=max(Console().width, WIDTH))  # a narrower console would drop columns
    console.print(table)
    for row in rows:
        if row.note:
            console.print(f"{row.name}: {row.note}", markup=False, soft_wrap=True)


def _cells(row: RunRow) -> tuple[str, ...]:
    if row.epochs is None:
        return (escape(row.name), row.state, *(["–"] * (len(_COLUMNS) - 2)))
    interval = (
        "" if row.val_test_mcc_low is None else f"\n{_figure(row.val_test_mcc_low)} to {_figure(row.val_test_mcc_high)}"
    )
    revision = f"\n[dim]git {_shorten(row.git_revision)}[/dim]" if row.git_revision else ""
    return (
        f"{escape(row.name)}{revision}",
        row.state,
        f"{row.epochs}/{row.epochs_asked}",
        _figure(row.best_val_select_mcc),
        f"{_figure(row.val_test_mcc)}{interval}",
        str(row.val_test_openings),
        "yes" if row.calibrated else "no",
        f"{escape(row.model or '–')}\n{row.adapter}",
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _shorten(revision: str) -> str:
    commit, _, dirty = revision.partition("-")
    return commit[:_REVISION_DIGITS] + (" and edits" if dirty else "")
