"""`roadwork profile`: where a training step's time goes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from roadwork.cli.app import app, quiet_lightning
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.profiling.profile import TrainingProfile
    from roadwork.profiling.spread import Spread


@app.command()
def profile(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to measure.")] = 20,
    trace: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a Chrome trace of two more steps, for ui.perfetto.dev."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same figures as JSON instead.")] = False,
) -> None:
    """Show where a training step's time goes, what bounds the run, and what to try.

    Runs a few real steps; nothing is saved. Example: roadwork profile --config configs/experiment/demo.yaml
    """
    from roadwork.config import load_config
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.profiling.profile import profile_training

    quiet_lightning()
    result = profile_training(NATIXDataModule(load_config(config, overrides or [])), steps, trace)
    if as_json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    _print(result)
    if trace:
        print(f"Trace: {trace}, to be opened in ui.perfetto.dev or chrome://tracing.")


def _print(result: TrainingProfile) -> None:
    from roadwork.profiling.verdict import rate

    here, times = result.here, result.input
    threads = f" ({here.threads} of {here.cores} cores)" if here.is_cpu else ""
    workers = f"{here.workers or 'no'} loader worker{'' if here.workers == 1 else 's'}"
    print(
        f"{result.model} at {result.img_size} pixels in batches of {result.batch_size} on {here.device}{threads}, "
        f"{here.precision}{', compiled' if result.compile else ''}; images from {here.origin}, "
        f"{workers}."
    )
    console = Console(soft_wrap=True, highlight=False)
    console.print(_stage_table(result))
    console.print(f"One image by itself, on one core (of {times.n_images}, from {here.origin}):")
    if times.read_ms.mean > 0:
        console.print(f"  read    {_ms(times.read_ms)} ms")
    console.print(f"  {'decode' if times.read_ms.mean > 0 else 'get':7} {_ms(times.decode_ms)} ms")
    loader = result.verdict.loader_images_per_s
    console.print(
        f"  {rate(times.images_per_s)} images/s a core"
        + (f"; with {workers} on {here.cores} cores: {rate(loader)} images/s" if here.workers else "")
    )
    console.print(result.verdict.sentence, style="bold", markup=False)
    for option in result.options:
        console.print(f"  → {option}", markup=False)
    for note in result.notes:
        console.print(note, markup=False)
    console.print(
        f"An epoch of {result.batches_per_epoch:,} batches takes about {_duration(result.epoch_seconds)}, "
        "without validation."
    )


def _stage_table(result: TrainingProfile) -> Table:
    from roadwork.profiling.stage_clock import STAGES
    from roadwork.profiling.verdict import rate

    table = Table(
        box=box.SIMPLE_HEAD, title=f"{result.steps} steps, after {result.warmup_steps} left out", title_justify="left"
    )
    for name in ("stage", ""):
        table.add_column(name)
    for name in ("ms (10 % to 90 %)", "share"):
        table.add_column(name, justify="right")
    for line in result.stages:
        table.add_row(line.stage, STAGES[line.stage], _ms(line.ms), f"{line.share:.1%}")
    table.add_section()
    table.add_row("step", f"{rate(result.images_per_s)} images/s", _ms(result.step_ms), "100.0%")
    return table


def _ms(spread: Spread) -> str:
    return f"{_number(spread.median)} ({_number(spread.p10)} to {_number(spread.p90)})"


def _number(milliseconds: float) -> str:
    return f"{milliseconds:.2g}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
