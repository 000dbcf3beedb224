"""Commands on models and speed: models, profile."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork.cli.app import DEFAULT_CONFIG, WIDTH, ConfigOption, Overrides, app, quiet_lightning

if TYPE_CHECKING:
    from roadwork.preflight.catalogue import Backbone
    from roadwork.profiling.measure import Spread
    from roadwork.profiling.profile import TrainingProfile
    from roadwork.settings import Settings


# Title, width and alignment of each column; with a space between them they fill `WIDTH`.
_COLUMNS: tuple[tuple[str, int, Literal["left", "right"]], ...] = (
    ("model=", 30, "left"),
    ("family", 11, "left"),
    ("parameters\ntrained", 10, "right"),
    ("GFLOPs", 6, "right"),
    ("GiB train\npredict", 9, "right"),
    ("licence", 14, "left"),
    ("weights,\nStreetVision", 12, "left"),
)


@app.command(rich_help_panel="Tools")
def models(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print exact values as JSON.")] = False,
) -> None:
    """List backbones with size, FLOPs, memory and licence.

    The values are for the configured image size, batch size and adapter. No weights are loaded.

    Example: roadwork models training.adapter=lora data.img_size=224
    """
    from roadwork.preflight.catalogue import list_backbones

    settings, rows = list_backbones(config, overrides or [])
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    _print_models(settings, rows)


def _print_models(settings: Settings, rows: list[Backbone]) -> None:
    from roadwork.preflight.catalogue import batch_of

    data, training = settings.data, settings.training
    trained = "only the head" if training.freeze_backbone else f"adapter {training.adapter}"
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        title=f"At {data.img_size} pixels, in batches of {batch_of(settings)}, {trained}",
        title_justify="left",
    )
    for name, width, side in _COLUMNS:
        table.add_column(name, width=width, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row))
    console = Console(highlight=False, width=max(Console().width, WIDTH))  # rich drops columns on a narrower one
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(f"{row.name} cannot be built here: {row.problem}", markup=False, soft_wrap=True)
    console.print(
        "→ marks the configured network. GFLOPs: forward pass of one image, a multiply-add is 2. GiB: an estimate in "
        "float32, without the device's own context. Weights: random, here, or not here. StreetVision: whether its "
        "miners can load the export.",
        style="dim",
    )


def _cells(row: Backbone) -> tuple[str, ...]:
    name = f"{'→ ' if row.configured else ''}{escape(row.name)}\n[dim]{escape(row.source)}[/dim]"
    if row.cost is None:
        return (name, "–", "–", "–", "–", escape(row.licence), row.weights)
    cost = row.cost
    return (
        name,
        row.family or "–",
        f"{_count(cost.parameters)}\n{_count(cost.trainable)}",
        f"{cost.forward_flops / 1e9:.1f}",
        f"{cost.training_bytes / 2**30:.1f}\n{cost.prediction_bytes / 2**30:.1f}",
        escape(row.licence),
        f"{row.weights}\n{'yes' if row.streetvision else 'no'}",
    )


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number:,}"


@app.command(rich_help_panel="Tools")
def profile(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to measure.")] = 20,
    trace: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write a Chrome trace of two more steps to this file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure where a training step spends its time.

    Runs a few real steps, names the bottleneck and suggests settings. Saves nothing.

    Example: roadwork profile --config configs/experiment/demo.yaml
    """
    from roadwork.config import load_config
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.profiling.profile import profile_training

    quiet_lightning()
    result = profile_training(NATIXDataModule(load_config(config, overrides or [])), steps, trace)
    if as_json:
        print(json.dumps(asdict(result), indent=2, ensure_ascii=False))
        return
    _print_profile(result)
    if trace:
        print(f"Trace: {trace}; open it in ui.perfetto.dev or chrome://tracing.")


def _print_profile(result: TrainingProfile) -> None:
    from roadwork.profiling.profile import rate

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
    console.print(f"One image on one core ({times.n_images} measured, from {here.origin}):")
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
    from roadwork.profiling.measure import STAGES
    from roadwork.profiling.profile import rate

    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{result.steps} steps, after {result.warmup_steps} for warm-up",
        title_justify="left",
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
