"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="A configuration file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as training.epochs=5 or model=vit_base."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, such as outputs/demo/latest.")]
OutputDirOption = Annotated[
    Path | None, typer.Option("--output-dir", help="Where runs are; else output_dir of configs/config.yaml.")
]
DEFAULT_CONFIG = Path("configs/config.yaml")
# Columns that wide tables are laid out for; what is piped would else get 80.
WIDTH = 100
