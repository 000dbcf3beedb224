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
    from roadwork.preflight.dry_run import prepare_trainer, run_dry
    from roadwork.runs import find_run_folder, write_manifest

    quiet_lightning()
    datamodule = NATIXDataModule(load_config(config, overrides or []))
    latest = Path(datamodule.settings.output_dir) / datamodule.settings.experiment / "latest"
    resume_from = find_run_folder(latest) if resume else None
    trainer = prepare_trainer(datamodule, resume_from)
    wiring = run_dry(datamodule, trainer)
    _print_callbacks(trainer)
    print_wiring(wiring)
    if dry_run:
        return
    trainer = prepare_trainer(datamodule)  # the dry run has moved the other one's weights
    folder = trainer.fit(datamodule, resume_from)
    write_manifest(folder, wiring=[asdict(row) for row in wiring])
    epochs = trainer.trainer.current_epoch
    print(f"Best val_select MCC {trainer.mcc_callback.best_mcc:.4f} in {epochs} epochs. The run is in {folder}")
    print(f"Next: roadwork evaluate {latest if latest.resolve() == folder.resolve() else folder}")


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
