"""The dataset and the splits that a configuration names."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.data.demo import generate_demo_data
from roadwork.data.deployment import load_deployment_points
from roadwork.data.huggingface import read_huggingface
from roadwork.data.images import ImageSource
from roadwork.data.local import read_local
from roadwork.data.splits import Splits, make_splits
from roadwork.data.splits_file import read_splits
from roadwork.data.table import SampleTable
from roadwork.errors import ConfigError, SplitError
from roadwork.progress import new_progress
from roadwork.settings import SPLIT_NAMES, DataSettings, Settings

logger = logging.getLogger(__name__)

DEMO_ROOT = Path("data/demo")
DEPLOYMENT_FILES = ("deployment.geojson", "deployment.csv", "deployment.parquet")


def read_dataset(data: DataSettings) -> tuple[SampleTable, ImageSource]:
    """The table and the images that `data.mode` names; makes the demo data on the shipped default's first use.

    Raises:
        DataError: the dataset cannot be used.
    """
    if data.mode == "huggingface":
        return read_huggingface(data.hub.name, data.hub.split, data.columns, data.class_names)
    root = Path(data.root)
    if root == DEMO_ROOT and not root.exists() and "ROADWORK_DATA" not in os.environ:
        logger.info(
            "data.root is the shipped default %s, which is not there yet: making the demo data (synthetic scenes).",
            root,
        )
        make_demo_data(root)
    return read_local(root, data.columns, data.class_names)


def make_demo_data(root: Path, **options: Any) -> None:
    """Generates the demo dataset into `root` with a progress bar."""
    with new_progress() as progress:
        task = progress.add_task("Drawing demo scenes", total=None)
        summary = generate_demo_data(
            root, on_progress=lambda done, total: progress.update(task, completed=done, total=total), **options
        )
    cities = ", ".join(f"{city} {rows:,}" for city, rows in summary.cities.items())
    logger.info(
        "%s: %s synthetic scenes, %s with roadwork, in %s sequences (%s). %s rows lack GPS, %s have it as text.",
        *(root, summary.images, summary.positives, summary.sequences, cities),
        *(summary.rows_without_gps, summary.rows_with_text_gps),
    )


def splits_path(settings: Settings) -> Path:
    """Where `roadwork split` writes: `data.splits_file`, else beside the local data, else the output folder."""
    if settings.data.splits_file:
        return Path(settings.data.splits_file)
    folder = Path(settings.data.root) if settings.data.mode == "local" else Path(settings.output_dir)
    return folder / "splits.json"


def check_may_replace(path: Path) -> None:
    """Whether `roadwork split` may write to `path`: its own files come back from their seed, a user's do not.

    Raises:
        SplitError: a file is there that `roadwork split` has not made.
    """
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content.get("fingerprint"):
        raise SplitError(
            f"{path} was not made by `roadwork split`, so it is not overwritten. "
            "Move it away first, or write elsewhere with data.splits_file=FILE."
        )


def find_splits(settings: Settings, table: SampleTable) -> Splits:
    """The splits on disk (`data.splits_file`, `<root>/splits.json`, `outputs/splits.json`), else new ones, not written.

    Raises:
        ConfigError: a `data.splits_file` that is not there.
        SplitError: a file that does not fit the data, or data that cannot be split.
    """
    data = settings.data
    if data.splits_file and not Path(data.splits_file).is_file():
        raise ConfigError(
            f"data.splits_file is {data.splits_file}, which is not there. Run `roadwork split`, or leave it null."
        )
    candidates = [splits_path(settings), Path(settings.output_dir) / "splits.json"]
    for path in candidates:
        if path.is_file():
            splits = read_splits(path, table, data.class_names)
            if splits.ratios and dict(splits.ratios) != dict(data.splits):
                logger.warning(
                    "%s was made with the ratios %s, data.splits says %s: the file counts. "
                    "Run `roadwork split` to change it.",
                    path,
                    dict(splits.ratios),
                    dict(data.splits),
                )
            return splits
    return make_splits(table, data.splits, data.splitting.seed, data.splitting.strategy)


def deployment_points(data: DataSettings, table: SampleTable, split_names: np.ndarray) -> tuple[np.ndarray, str]:
    """((M, 2) latitude and longitude in degrees where the detector will be deployed, where they come from).

    Raises:
        ConfigError: `data.gps_sampling.target` is neither a split nor a file, or gives no position.
    """
    target = data.gps_sampling.target
    if target == "auto":
        root = Path(data.root if data.mode == "local" else data.hub.name)
        present = [root / name for name in DEPLOYMENT_FILES if (root / name).is_file()]
        target = str(present[0]) if present else "val_test"
    if target in SPLIT_NAMES:
        points = table.gps[(split_names == target) & table.has_gps]
        if len(points) == 0:
            raise ConfigError(
                f"data.gps_sampling.target is {data.gps_sampling.target}, but no row of {target} has GPS. "
                "Name a csv, parquet or GeoJSON file of deployment points, or set data.gps_sampling.enabled=false."
            )
        return points, f"the coordinates of {target}"
    if not Path(target).is_file():
        raise ConfigError(
            f"data.gps_sampling.target is {target!r}. "
            f"Allowed: auto, {', '.join(SPLIT_NAMES)}, or a csv, parquet or GeoJSON file that is there."
        )
    return load_deployment_points(Path(target)), target
