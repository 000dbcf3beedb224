"""`roadwork demo-data`: synthetic street scenes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from roadwork.cli.app import app


@app.command("demo-data")
def demo_data(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to make.")],
    *,
    images: Annotated[int, typer.Option(min=1, help="How many.")] = 4800,
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "640x480",
    seed: Annotated[int, typer.Option(min=0, help="The bytes depend only on it and the other options.")] = 0,
    geo_shift: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Share of streets that look as their region does; at 0 all regions look alike."
        ),
    ] = 1.0,
    fmt: Annotated[str, typer.Option("--format", help="local or parquet.")] = "local",
) -> None:
    """Draw a synthetic dataset of street scenes with and without roadwork.

    It proves the machinery, not accuracy on streets. Example: roadwork demo-data data/demo --images 400
    """
    from roadwork.data.source import make_demo_data

    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None:
        raise typer.BadParameter(f"{size!r} is no size; allowed: WIDTHxHEIGHT, such as 640x480.", param_hint="--size")
    if fmt not in ("local", "parquet"):
        raise typer.BadParameter(f"{fmt!r}; allowed: local, parquet.", param_hint="--format")
    make_demo_data(folder, images=images, size=(int(match[1]), int(match[2])), seed=seed, geo_shift=geo_shift, fmt=fmt)
