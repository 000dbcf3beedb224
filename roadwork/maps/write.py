"""The map of a configuration's data, and of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.config import load_config, to_settings
from roadwork.data.samplers.brackets import parse_brackets
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.source import read_dataset, require_existing_splits
from roadwork.data.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.data.targets import find_deployment
from roadwork.evaluation.predictions import read_predictions
from roadwork.maps.layers import DeploymentLayer
from roadwork.maps.map import build_map, write_map
from roadwork.settings import Settings

FILE_NAME = "map.html"
_LEAKS = (
    "These splits were made row by row, for comparison only: neighbours are on both sides, and every figure from them "
    "is too good."
)


def write_data_map(settings: Settings, path: Path | None = None, *, tiles: bool = False) -> Path:
    """Writes the map of a configuration's data, to ``<output_dir>/map.html`` unless told otherwise.

    Raises:
        SplitError: there are no splits yet; making them would decode every image.
        DataError: no row has a position.
    """
    path = path or Path(settings.output_dir) / FILE_NAME
    write_map(path, _build(settings, _data_name(settings), None, tiles=tiles))
    return path


def write_run_map(run: Path, overrides: Sequence[str] = (), path: Path | None = None, *, tiles: bool = False) -> Path:
    """Writes the map of a run, to ``map.html`` in its folder unless told otherwise; with its errors, once evaluated.

    Args:
        run: its folder.
        overrides: ``key=value`` on top of the run's own configuration, such as ``privacy.coarsen_gps=1``.
        path: another file.
        tiles: whether OpenStreetMap's tiles are fetched when the map is looked at.

    Raises:
        DataError: no row has a position, or the predictions are damaged.
        SplitError: the run's splits do not fit the data.
    """
    settings = to_settings(load_config(run / "config.yaml", overrides))
    settings.data.splits_file = str(run / "splits.json")
    predictions = read_predictions(run / "predictions.parquet") if (run / "predictions.parquet").is_file() else None
    path = path or run / FILE_NAME
    write_map(path, _build(settings, f"{settings.experiment}, {run.name}", predictions, tiles=tiles))
    return path


def _build(settings: Settings, title: str, predictions: pd.DataFrame | None, *, tiles: bool) -> str:
    table, _ = read_dataset(settings.data)
    splits = require_existing_splits(settings, table)  # none are made, since that compares images
    names = splits.names_by_row(table)
    deployment = None
    if settings.data.gps_sampling.enabled and table.has_gps.any():  # else there is no map to draw
        sampling = settings.data.gps_sampling
        points, origin = find_deployment(settings.data, table, names)
        brackets = parse_brackets(sampling.weight_brackets)
        clusters = cluster_deployment(points, sampling.n_clusters, brackets.edges_km[1], sampling.random_seed)
        deployment = DeploymentLayer(points, clusters, brackets, origin)
    return build_map(
        table,
        names,
        title=title,
        deployment=deployment,
        predictions=predictions,
        decimals=settings.privacy.coarsen_gps,
        tiles=tiles,
        notes=[*([_LEAKS] if splits.leaks_by_design else []), *_unplaced(table, splits)],
    )


def _unplaced(table: SampleTable, splits: Splits) -> list[str]:
    unplaced = table.is_train_only & ~np.isin(table.ids, splits.set_aside) & (splits.names_by_row(table) == "")
    if not unplaced.any():
        return []
    note = (
        f"{unplaced.sum():,} rows of data.extra are only trained on, and drawn as in no split: finding those that "
        "would leak takes comparing images. The map of a run has them in their places."
    )
    return [note]


def _data_name(settings: Settings) -> str:
    data = settings.data
    return data.hub.name if data.mode == "huggingface" else Path(data.root).resolve().name
