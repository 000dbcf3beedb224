"""The layers of a map as GeoJSON features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from roadwork.data.samplers.clusters import Clusters
from roadwork.data.samplers.weights import Brackets
from roadwork.data.utils.privacy import round_distances, round_positions
from roadwork.maps.geometry import (
    FARTHEST_KM,
    cell_levels,
    cell_rings,
    finest_resolution,
    gather_cells,
    geodesic_circle,
    mean_positions,
    split_line,
    zoom_of,
)
from roadwork.metrics.decision import decide

# In the order of the splits.
SPLITS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
NO_SPLIT = "#8A8A8A"
DEPLOYMENT = "#222222"
MISSED = "#D55E00"
FALSE_ALARM = "#F0E442"

# From few to many: one hue, ordered by lightness.
DENSITY = ("#C6DBEF", "#9ECAE1", "#6BAED6", "#3182BD", "#08519C")

# Positions that are not rounded have 6 decimals (11 cm).
_WHOLE_DECIMALS = 6
_MAX_CELLS = 3000
_MAX_MARKERS = 3000
_ANY_ZOOM = 99.0
_MAX_ERRORS = 3000
_NAMES_IN_TOOLTIP = 6

# Errors share a marker on a grid of 4 decimals (11 m): frames of one stop would hide each other.
_ERROR_DECIMALS = 4


Feature = dict[str, Any]


@dataclass(frozen=True)
class MapLayer:
    """One layer that can be switched on and off.

    Attributes:
        name: label of its switch; contains no text from the data.
        color: color of its swatch.
        features: GeoJSON. ``properties.text`` is the tooltip, as text and never as HTML. A feature with
            ``properties.zoom`` = [from, to] is drawn while from <= zoom < to.
        style: Leaflet path options of all features; ``properties.style`` of a feature overrides them.
        shown: whether the layer is on when the map opens.
    """

    name: str
    color: str
    features: list[Feature]
    style: dict[str, Any]
    shown: bool = True


def make_point(position: np.ndarray, text: str, count: int) -> Feature:
    """A marker at (2,) latitude, longitude in degrees; its size grows with `count`."""
    return make_feature(point_geometry(position), text, {"radius": round(4 + 2 * float(np.log10(count)), 1)})


def point_geometry(position: np.ndarray) -> dict[str, Any]:
    """The GeoJSON point of (2,) latitude, longitude in degrees."""
    return {"type": "Point", "coordinates": lon_lat(position[None])[0]}


def make_feature(geometry: dict[str, Any], text: str, style: dict[str, Any]) -> Feature:
    """A feature with a tooltip and its own Leaflet path options."""
    return {"type": "Feature", "geometry": geometry, "properties": {"text": text, "style": style}}


def lon_lat(line_deg: np.ndarray) -> Sequence[list[float]]:
    """(V, 2) latitude, longitude in degrees as GeoJSON positions, longitude first."""
    lines: Sequence[list[float]] = line_deg[:, ::-1].round(_WHOLE_DECIMALS).tolist()
    return lines


def counted(count: int, noun: str) -> str:
    """The number with its noun, in singular or plural."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class DeploymentLayer:
    """Where the detector will be deployed, and the training weights by distance to it.

    Attributes:
        points_deg: (M, 2) latitude, longitude in degrees.
        clusters: clusters of these points.
        brackets: distances in km and weights.
        origin: source of the points, in words.
    """

    points_deg: np.ndarray
    clusters: Clusters
    brackets: Brackets
    origin: str


def density_layer(gps: np.ndarray, decimals: int | None) -> tuple[MapLayer, list[tuple[str, str]]]:
    """Cells coloured by number of rows, finer at higher zoom, and the legend (color, rows) from few to many.

    Args:
        gps: (N, 2) rounded positions without NaN, N >= 1.
        decimals: decimals of these positions; None if not rounded.
    """
    levels = cell_levels(gps, decimals, _MAX_CELLS)
    most = max(counts.max() for _, _, counts in levels)
    edges = np.unique(np.geomspace(1, most + 1, len(DENSITY) + 1).round().astype(int))
    colors = DENSITY[-(len(edges) - 1) :]
    features = []
    to_zoom = _ANY_ZOOM
    for resolution, cells, counts in levels:
        from_zoom = zoom_of(resolution, float(gps[:, 0].mean()))
        shades = np.searchsorted(edges, counts, side="right") - 1
        for cell, count, shade in zip(cells, counts.tolist(), shades, strict=True):
            shape = {"type": "MultiPolygon", "coordinates": [[lon_lat(ring)] for ring in cell_rings(cell)]}
            feature = make_feature(
                shape, f"{counted(count, 'training image')} in this cell", {"fillColor": colors[shade]}
            )
            feature["properties"]["zoom"] = [round(from_zoom, 2), round(to_zoom, 2)]
            features.append(feature)
        to_zoom = from_zoom
    style = {"color": "#FFFFFF", "weight": 0.5, "fillOpacity": 0.75, "fill": True}
    legend = [
        (color, f"{low:,}" if low == high - 1 else f"{low:,} to {high - 1:,}")
        for color, low, high in zip(colors, edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return MapLayer("Training images by cell", colors[-1], features, style), legend


def rows_layer(
    name: str, color: str, gps: np.ndarray, labels: np.ndarray, decimals: int | None, *, shown: bool
) -> MapLayer:
    """A marker for each cell with rows; its size grows with their number.

    Args:
        name: name of the layer, also in tooltips.
        color: color of the markers.
        gps: (N, 2) rounded positions without NaN.
        labels: (N,) 0 or 1.
        decimals: decimals of the positions; None if not rounded.
        shown: whether the layer is on when the map opens.
    """
    cells, index = gather_cells(gps, finest_resolution(decimals), _MAX_MARKERS)
    counts, positives = np.bincount(index, minlength=len(cells)), np.bincount(index, labels, minlength=len(cells))
    # A mean of rounded positions is rounded again, so that it reveals no more than they do.
    positions = round_positions(mean_positions(gps, index, len(cells)), decimals)
    features = [
        make_point(positions[i], f"{name}: {counted(counts[i], 'image')}, {positives[i]:.0f} with roadwork", counts[i])
        for i in np.argsort(-counts, kind="stable")
    ]
    style = {"color": "#FFFFFF", "weight": 1, "fillColor": color, "fillOpacity": 0.85, "fill": True}
    return MapLayer(f"{name} ({len(gps):,})", color, features, style, shown)


def deployment_layers(deployment: DeploymentLayer, decimals: int | None) -> list[MapLayer]:
    """Deployment centres with a circle at the end of each distance bracket, and deployment points."""
    points = round_positions(deployment.points_deg, decimals)
    points = points[~np.isnan(points).any(axis=1)]
    cells, index = gather_cells(points, finest_resolution(decimals), _MAX_MARKERS)
    positions = round_positions(mean_positions(points, index, len(cells)), decimals)
    counts = np.bincount(index)
    features = [make_point(p, counted(n, "deployment point"), n) for p, n in zip(positions, counts, strict=True)]
    style = {"color": DEPLOYMENT, "weight": 1, "fillColor": "#FFFFFF", "fillOpacity": 0.9, "fill": True}
    return [
        MapLayer("Deployment centres and brackets", DEPLOYMENT, _centers(deployment, decimals), {}),
        MapLayer(f"Deployment points ({len(points):,})", "#FFFFFF", features, style, shown=False),
    ]


def _centers(deployment: DeploymentLayer, decimals: int | None) -> list[Feature]:
    clusters, brackets = deployment.clusters, deployment.brackets
    radii = round_distances(clusters.radius_km, decimals)
    features = []
    for number, center in enumerate(round_positions(clusters.centers_deg, decimals)):
        what = (
            f"Centre {number + 1}: {counted(clusters.sizes[number], 'deployment point')} within {radii[number]:.0f} km"
        )
        for ring, edge_km in enumerate(brackets.edges_km[1:]):
            if edge_km < FARTHEST_KM:
                lines = [lon_lat(line) for line in split_line(geodesic_circle(center, edge_km))]
                text = f"Centre {number + 1}\n{brackets.names[ring]}: weight {brackets.weights[ring]:g}"
                line_style = {"color": DEPLOYMENT, "weight": 1.5, "opacity": 0.8, "fill": False}
                dash = {"dashArray": "6 4"} if ring else {}
                features.append(
                    make_feature({"type": "MultiLineString", "coordinates": lines}, text, line_style | dash)
                )
        marker = {"radius": 6, "color": "#FFFFFF", "weight": 2, "fillColor": DEPLOYMENT, "fillOpacity": 1}
        features.append(make_feature(point_geometry(center), what, marker | {"fill": True}))
    return features


def bounds_of(*positions: np.ndarray) -> list[list[float]]:
    """[[south, west], [north, east]] of (N, 2) arrays of latitude, longitude in degrees, NaN if missing."""
    known = np.concatenate([gps[~np.isnan(gps).any(axis=1)] for gps in positions])
    return [known.min(axis=0).tolist(), known.max(axis=0).tolist()]


def error_layers(predictions: pd.DataFrame, decimals: int | None) -> list[MapLayer]:
    """Missed roadwork and false alarms at threshold 0.5."""
    decided, label = decide(predictions["probability"].to_numpy()) == 1, predictions["label"].to_numpy() == 1
    kinds = (
        ("Missed roadwork", MISSED, label & ~decided),
        ("False alarms", FALSE_ALARM, ~label & decided),
    )
    return [_error_layer(name, color, predictions[wrong], decimals) for name, color, wrong in kinds]


def _error_layer(name: str, color: str, errors: pd.DataFrame, decimals: int | None) -> MapLayer:
    # The most confident errors come first and are drawn if there are too many.
    errors = errors.iloc[np.argsort(-np.abs(errors["probability"].to_numpy() - 0.5), kind="stable")]
    gps = round_positions(
        round_positions(errors[["latitude", "longitude"]].to_numpy(np.float64), decimals), _ERROR_DECIMALS
    )
    lines = [
        f"{filename}: {probability:.1%} roadwork ({split})"
        for filename, probability, split in errors[["filename", "probability", "split"]].itertuples(index=False)
    ]
    places: dict[tuple[float, float], list[str]] = {}
    for (latitude, longitude), line in zip(gps.tolist(), lines, strict=True):
        if not math.isnan(latitude + longitude):
            places.setdefault((latitude, longitude), []).append(line)
    features = [
        make_point(np.array(position), _errors_text(name, here), len(here))
        for position, here in itertools.islice(places.items(), _MAX_ERRORS)
    ]
    counts = [f"{len(errors):,}"]
    if without := len(errors) - sum(map(len, places.values())):
        counts.append(f"{without:,} without GPS")
    if len(places) > _MAX_ERRORS:
        counts.append(f"{_MAX_ERRORS:,} most confident places drawn")
    style = {"color": "#000000", "weight": 1.5, "fillColor": color, "fillOpacity": 1, "fill": True}
    return MapLayer(f"{name} ({', '.join(counts)})", color, features, style)


def _errors_text(name: str, lines: list[str]) -> str:
    more = [f"and {len(lines) - _NAMES_IN_TOOLTIP:,} more"] if len(lines) > _NAMES_IN_TOOLTIP else []
    return "\n".join([f"{name}, {counted(len(lines), 'image')}", *lines[:_NAMES_IN_TOOLTIP], *more])
