"""`map.html`: where the training images are, where the detector will be deployed, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.data.table import SampleTable
from roadwork.data.utils.privacy import coarsen, grain_km
from roadwork.errors import DataError
from roadwork.maps import palette
from roadwork.maps.error_layers import error_layers
from roadwork.maps.features import MapLayer
from roadwork.maps.layers import (
    DeploymentLayer,
    bounds_of,
    density_layer,
    deployment_layers,
    rows_layer,
)
from roadwork.maps.page import Panel, PanelRow, render_page
from roadwork.runs import atomic_path
from roadwork.settings import SPLIT_NAMES

_TRAIN = SPLIT_NAMES[0]
# (name in the data, name on the map, colour); rows that are in none have no name.
_SPLITS = (*zip(SPLIT_NAMES, SPLIT_NAMES, palette.SPLITS, strict=True), ("", "In no split", palette.NO_SPLIT))


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
        table: the N rows.
        split_names: (N,) split of each row, empty where it is in none, such as one that is set aside.
        title: of the page.
        deployment: where the detector will be deployed; None draws none.
        predictions: as in ``predictions.parquet``; None draws no errors.
        decimals: of a degree, that every position is rounded to before anything is made of it; None keeps them whole.
        tiles: whether OpenStreetMap's tiles are fetched when the map is looked at.
        notes: what else to say beside the map.

    Raises:
        DataError: no row has a position.
        MissingExtraError: folium is not installed.
    """
    if not table.has_gps.any():
        raise DataError(
            f"None of the {len(table):,} rows has a position, so there is nothing to draw a map of. "
            "Name the columns of latitude and longitude with data.columns."
        )
    table = replace(table, gps=coarsen(table.gps, decimals))
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
    extents = [table.gps] if deployment is None else [table.gps, coarsen(deployment.points_deg, decimals)]
    return render_page(layers, panel, bounds_of(*extents), tiles=tiles)


def write_map(path: Path, page: str) -> None:
    """Writes the page so that ``path`` holds all of it or is left as it was."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _split_layers(table: SampleTable, split_names: np.ndarray, decimals: int | None, *, shown: bool) -> list[MapLayer]:
    layers = []
    for name, label, color in _SPLITS:
        rows = (split_names == name) & table.has_gps
        if rows.any():
            # When the map opens, the density stands for the training set.
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
            f"Deployment: {deployment.origin}. A training image's weight by its distance to the nearest centre: "
            f"{', '.join(weights)}."
        )
    if predictions is not None:
        splits = ", ".join(name for name in SPLIT_NAMES if (predictions["split"] == name).any())
        notes.append(f"Errors: {len(predictions):,} images of {splits}, decided at 0.5. Hover over one for its file.")
    if decimals is None:
        notes.append("Positions are drawn as the data has them.")
    else:
        notes.append(
            f"Positions are rounded to {decimals} decimal{'' if decimals == 1 else 's'} of a degree, "
            f"about {grain_km(decimals):.2g} km."
        )
    return notes
