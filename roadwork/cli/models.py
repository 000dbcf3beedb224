"""`roadwork models`: which backbones there are, and what each would cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roadwork.cli.app import app
from roadwork.cli.options import DEFAULT_CONFIG, WIDTH, ConfigOption, Overrides

if TYPE_CHECKING:
    from roadwork.models.catalogue import Backbone
    from roadwork.settings import Settings

# Each column's title, width and side: together `WIDTH` with a space between.
_COLUMNS: tuple[tuple[str, int, Literal["left", "right"]], ...] = (
    ("model=", 30, "left"),
    ("family", 11, "left"),
    ("parameters\ntrained", 10, "right"),
    ("GFLOPs", 6, "right"),
    ("GiB train\npredict", 9, "right"),
    ("licence", 14, "left"),
    ("weights,\nStreetVision", 12, "left"),
)


@app.command()
def models(
    overrides: Overrides = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the same as JSON instead, exact.")] = False,
) -> None:
    """List the backbones of configs/model: size, arithmetic, memory, licence, and who can load them.

    For the configured img_size, batch_size, adapter and freezing; no weights are read.
    Example: roadwork models training.adapter=lora data.img_size=224
    """
    from roadwork.models.catalogue import list_backbones

    settings, rows = list_backbones(config, overrides or [])
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False))
        return
    _print(settings, rows)


def _print(settings: Settings, rows: list[Backbone]) -> None:
    from roadwork.models.catalogue import batch_of

    data, training = settings.data, settings.training
    trained = "the head alone" if training.freeze_backbone else f"adapter {training.adapter}"
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
    console = Console(highlight=False, width=max(Console().width, WIDTH))  # in a narrower one columns vanish
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(f"{row.name} cannot be built here: {row.problem}", markup=False, soft_wrap=True)
    console.print(
        "→ is what the configuration trains. GFLOPs: one image forward, a multiply-add is 2. GiB: an estimate in "
        "float32, without what the device itself takes. Weights: random, or here or not. StreetVision: whether its "
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
