"""`roadwork map`: one HTML file that opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roadwork.cli.app import app
from roadwork.cli.options import DEFAULT_CONFIG, ConfigOption


@app.command("map")
def draw_map(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN] [KEY=VALUE]...", help="A run's folder, and overrides of its configuration."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="The file, instead of map.html in the run's or output folder.")
    ] = None,
    tiles: Annotated[
        bool, typer.Option("--tiles", help="Fetch OpenStreetMap's tiles whenever the map is looked at.")
    ] = False,
) -> None:
    """Draw training density, splits, deployment and, after `evaluate`, the errors: one file that opens offline.

    Example: roadwork map outputs/demo/latest privacy.coarsen_gps=2
    """
    from roadwork.config import load_config, to_settings
    from roadwork.maps.write import write_data_map, write_run_map
    from roadwork.runs import find_run_folder

    runs = [argument for argument in arguments or [] if "=" not in argument]
    overrides = [argument for argument in arguments or [] if "=" in argument]
    if len(runs) > 1:
        raise typer.BadParameter(f"{', '.join(runs)}: name one run's folder.", param_hint="RUN")
    if runs and config != DEFAULT_CONFIG:
        raise typer.BadParameter("A run has its own configuration; leave --config out.", param_hint="--config")
    if runs:
        path = write_run_map(find_run_folder(Path(runs[0])), overrides, out, tiles=tiles)
    else:
        path = write_data_map(to_settings(load_config(config, overrides)), out, tiles=tiles)
    print(
        f"{path}: {path.stat().st_size / 1e6:.1f} MB, to be opened in a browser."
        + (" It fetches tiles." if tiles else "")
    )
