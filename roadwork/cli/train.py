"""`roadwork train`: a run's folder from a configuration; `--dry-run`: proof that every wire works."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from roadwork.cli.app import FAILED, app, quiet_lightning
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.preflight.observations import WireRow
    from roadwork.training.trainers.base_trainer import BaseTrainer


@app.command()
def train(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stop after the wiring table; nothing is written.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the experiment's latest run.")] = False,
) -> None:
    """Train a detector, once two steps on real batches have shown that every wire works.

    Example: roadwork train --config configs/config.yaml data.root=photos training.epochs=10
    """
    from roadwork.config import load_config
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.runs import find_run_folder

    quiet_lightning()
    datamodule = NATIXDataModule(load_config(config, overrides or []))
    resume_from = find_run_folder(_latest(datamodule)) if resume else None
    prove_and_train(datamodule, resume_from, dry_run=dry_run)


def prove_and_train(datamodule: NATIXDataModule, resume_from: Path | None, *, dry_run: bool = False) -> None:
    """Shows the wiring table of two steps on real batches, then trains, or goes on with a run."""
    from roadwork.errors import RunStoppedError
    from roadwork.preflight.dry_run import prepare_trainer, run_dry
    from roadwork.run_names import name_run
    from roadwork.training.batch_size import set_batch_size
    from roadwork.training.claim import check_unclaimed
    from roadwork.training.team import Team
    from roadwork.training.trainers.resume import check_same_configuration

    team = Team(datamodule.settings.training)
    wiring: list[WireRow] = []
    if team.is_first:
        if resume_from:
            print(f"Going on with {resume_from}")
            check_unclaimed(resume_from)
        trainer = prepare_trainer(datamodule, resume_from)
        if resume_from:
            check_same_configuration(resume_from, datamodule.cfg)  # before the dry run, which takes its time
        wiring = run_dry(datamodule, trainer)
        _print_callbacks(trainer)
        print_wiring(wiring)
    if dry_run:
        return
    set_batch_size(team.share(datamodule.settings.data.dataloader.batch_size), datamodule)
    trainer = prepare_trainer(datamodule)  # the dry run has moved the other one's weights
    try:
        folder = trainer.fit(datamodule, resume_from, [asdict(row) for row in wiring])
    except RunStoppedError as error:
        if not team.is_first:  # it has stopped as it was to; the first one says so
            return
        error.way_on = f"`roadwork resume {name_run(trainer.run_folder)}`"
        raise
    if not team.is_first:
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
    """Prints the wiring table; ends the command with exit code 1 where a wire is dead."""
    table = Table("", "Wire", "Observed on real batches", title="Wiring", title_justify="left")
    for row in rows:
        table.add_row("✅" if row.works else "❌", row.wire, row.observed)
    Console().print(table)
    dead = [row for row in rows if not row.works]
    for row in dead:
        print(f"❌ {row.wire}: {row.fix}.")
    print(f"{len(rows) - len(dead)} of {len(rows)} wires work." + (" Do not train yet." if dead else ""))
    if dead:
        raise typer.Exit(FAILED)
