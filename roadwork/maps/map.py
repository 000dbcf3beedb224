"""Writes map.html for a dataset or a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.core.files import atomic_path
from roadwork.data.deployment import find_deployment
from roadwork.data.open import open_dataset
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.data.utils.privacy import round_positions, rounding_step_km
from roadwork.maps import layers
from roadwork.maps.layers import (
    DeploymentLayer,
    MapLayer,
    bounds_of,
    density_layer,
    deployment_layers,
    error_layers,
    rows_layer,
)
from roadwork.maps.page import Panel, PanelRow, render_page
from roadwork.metrics.predictions import read_predictions
from roadwork.runs.run import Run
from roadwork.settings import SPLIT_NAMES, Settings

_TRAIN = SPLIT_NAMES[0]

# (name in the data, name on the map, color); rows in no split have an empty name.
_SPLITS = (*zip(SPLIT_NAMES, SPLIT_NAMES, layers.SPLITS, strict=True), ("", "In no split", layers.NO_SPLIT))
FILE_NAME = "map.html"
_LEAKS = (
    "Warning: these splits are random by row, so neighbouring photos leak between them and every metric is too high. "
    "Use them for comparison only."
)


def build_map(
    table: SampleTable,
    split_names: np.ndarray,
    *,
    title: str,
    deployment: DeploymentLayer | None = None,
    predictions: pd.DataFrame | None = None,
    decimals: int | None = None,
    tiles: bool = False,
    notes: Sequence[str] = (),
) -> str:
    """The map as one HTML file.

    Args:
        table: N rows.
        split_names: (N,) split of each row; empty for rows in no split, such as rows set aside.
        title: title of the page.
        deployment: where the detector will be deployed; None draws no deployment.
        predictions: as in ``predictions.parquet``; None draws no errors.
        decimals: decimals of a degree to which all positions are rounded first; None for no rounding.
        tiles: whether the browser loads OpenStreetMap tiles.
        notes: further sentences for the panel.

    Raises:
        DataError: no row has a position.
        MissingExtraError: folium is not installed.
    """
    if not table.has_gps.any():
        raise DataError(
            f"None of the {len(table):,} rows has GPS, so there is no map to draw. Set the names of the latitude and "
            "longitude columns in data.columns."
        )
    table = replace(table, gps=round_positions(table.gps, decimals))
    layers: list[MapLayer] = []
    legend: list[tuple[str, str]] = []
    is_trained_on = (split_names == _TRAIN) & table.has_gps
    if is_trained_on.any():
        density, legend = density_layer(table.gps[is_trained_on], decimals)
        layers.append(density)
    layers += _split_layers(table, split_names, decimals, shown=predictions is None)
    if deployment is not None:
        layers += deployment_layers(deployment, decimals)
    if predictions is not None:
        layers += error_layers(predictions, decimals)
    panel = Panel(
        title,
        [_counts(label, table.take(split_names == name)) for name, label, _ in _SPLITS if name in split_names],
        legend,
        [*notes, *_notes(deployment, predictions, decimals)],
    )
    extents = [table.gps] if deployment is None else [table.gps, round_positions(deployment.points_deg, decimals)]
    return render_page(layers, panel, bounds_of(*extents), tiles=tiles)


def write_map(path: Path, page: str) -> None:
    """Writes the page atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _split_layers(table: SampleTable, split_names: np.ndarray, decimals: int | None, *, shown: bool) -> list[MapLayer]:
    layers = []
    for name, label, color in _SPLITS:
        rows = (split_names == name) & table.has_gps
        if rows.any():
            # When the map opens, the density layer shows the training set.
            is_on = shown and name not in (_TRAIN, "")
            layers.append(rows_layer(label, color, table.gps[rows], table.labels[rows], decimals, shown=is_on))
    return layers


def _counts(name: str, rows: SampleTable) -> PanelRow:
    return PanelRow(name, f"{len(rows):,}", f"{rows.labels.mean():.0%}", f"{rows.has_gps.sum():,}")


def _notes(deployment: DeploymentLayer | None, predictions: pd.DataFrame | None, decimals: int | None) -> list[str]:
    notes = []
    if deployment is not None:
        ends = [*(f"below {edge:g} km" for edge in deployment.brackets.edges_km[1:-1]), "beyond"]
        weights = [f"{weight:g} {end}" for weight, end in zip(deployment.brackets.weights, ends, strict=True)]
        notes.append(
            f"Deployment: {deployment.origin}. Weight of a training image by distance to the nearest centre: "
            f"{', '.join(weights)}."
        )
    if predictions is not None:
        splits = ", ".join(name for name in SPLIT_NAMES if (predictions["split"] == name).any())
        notes.append(f"Errors: among {len(predictions):,} images of {splits}, at threshold 0.5. Hover for file names.")
    if decimals is None:
        notes.append("Positions are not rounded.")
    else:
        notes.append(
            f"Positions are rounded to {decimals} decimal{'' if decimals == 1 else 's'} of a degree, "
            f"about {rounding_step_km(decimals):.2g} km."
        )
    return notes


def write_data_map(settings: Settings, path: Path | None = None, *, tiles: bool = False) -> Path:
    """Writes the map of a dataset; the default path is ``<output_dir>/map.html``.

    Raises:
        SplitError: there are no splits yet; creating them would decode every image.
        DataError: no row has GPS.
    """
    path = path or Path(settings.output_dir) / FILE_NAME
    write_map(path, _build(settings, _data_name(settings), None, tiles=tiles))
    return path


def write_run_map(run: Path, overrides: Sequence[str] = (), path: Path | None = None, *, tiles: bool = False) -> Path:
    """Writes the map of a run, with errors once it is evaluated; the default path is ``map.html`` in its folder.

    Args:
        run: run folder.
        overrides: ``key=value`` on top of the run's own configuration, such as ``privacy.coarsen_gps=1``.
        path: the file to write instead.
        tiles: whether the browser loads OpenStreetMap tiles.

    Raises:
        DataError: no row has GPS, or the predictions are damaged.
        SplitError: the run's splits do not fit the data.
    """
    settings = Run(run).read_settings(overrides)
    settings.data.splits_file = str(Run(run).splits_file)
    predictions = read_predictions(Run(run).predictions_file) if Run(run).predictions_file.is_file() else None
    path = path or run / FILE_NAME
    write_map(path, _build(settings, f"{settings.experiment}, {run.name}", predictions, tiles=tiles))
    return path


def _build(settings: Settings, title: str, predictions: pd.DataFrame | None, *, tiles: bool) -> str:
    dataset = open_dataset(settings)
    table, splits = dataset.table, dataset.require_existing_splits()  # creating splits would compare images
    names = splits.names_by_row(table)
    deployment = None
    if settings.data.gps_sampling.enabled and table.has_gps.any():  # without GPS there is no map to draw
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
        f"{unplaced.sum():,} rows of data.extra are for training only and are drawn in no split, because leak checks "
        "need the images. The map of a run shows their splits."
    )
    return [note]


def _data_name(settings: Settings) -> str:
    data = settings.data
    return data.hub.name if data.mode == "huggingface" else Path(data.root).resolve().name
