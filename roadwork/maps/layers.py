"""The layers of a map as GeoJSON: what is drawn where, in which colour, and what is said about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.data.samplers.brackets import Brackets
from roadwork.data.samplers.clusters import Clusters
from roadwork.data.utils.privacy import coarsen, coarsen_km
from roadwork.maps import palette
from roadwork.maps.cells import cell_levels, finest_resolution, gather_cells, mean_positions, zoom_of
from roadwork.maps.features import Feature, MapLayer, counted, lon_lat, make_feature, make_point, point_geometry
from roadwork.maps.geometry import FARTHEST_KM, cell_rings, geodesic_circle, split_line

_MAX_CELLS = 3000
_MAX_MARKERS = 3000
_ANY_ZOOM = 99.0


@dataclass(frozen=True)
class DeploymentLayer:
    """Where the detector will be deployed, and how training rows are weighted by their distance to it.

    Attributes:
        points_deg: (M, 2) latitude, longitude in degrees.
        clusters: of these points.
        brackets: kilometres and weights.
        origin: where the points come from, in words.
    """

    points_deg: np.ndarray
    clusters: Clusters
    brackets: Brackets
    origin: str


def density_layer(gps: np.ndarray, decimals: int | None) -> tuple[MapLayer, list[tuple[str, str]]]:
    """Cells coloured by their number of rows, finer as one zooms in; and the legend: (colour, rows) from few to many.

    Args:
        gps: (N, 2) rounded positions without NaN, N >= 1.
        decimals: that they are rounded to.
    """
    levels = cell_levels(gps, decimals, _MAX_CELLS)
    most = max(counts.max() for _, _, counts in levels)
    edges = np.unique(np.geomspace(1, most + 1, len(palette.DENSITY) + 1).round().astype(int))
    colors = palette.DENSITY[-(len(edges) - 1) :]
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
    """A marker for each cell that has rows, the larger the more.

    Args:
        name: of the layer, and of its rows on hovering.
        color: of the markers.
        gps: (N, 2) rounded positions without NaN.
        labels: (N,) 0 or 1.
        decimals: that positions are rounded to.
        shown: whether the layer is switched on.
    """
    cells, index = gather_cells(gps, finest_resolution(decimals), _MAX_MARKERS)
    counts, positives = np.bincount(index, minlength=len(cells)), np.bincount(index, labels, minlength=len(cells))
    # The mean of rounded positions lies between them; rounded again, it says no more than they do.
    positions = coarsen(mean_positions(gps, index, len(cells)), decimals)
    features = [
        make_point(positions[i], f"{name}: {counted(counts[i], 'image')}, {positives[i]:.0f} with roadwork", counts[i])
        for i in np.argsort(-counts, kind="stable")
    ]
    style = {"color": "#FFFFFF", "weight": 1, "fillColor": color, "fillOpacity": 0.85, "fill": True}
    return MapLayer(f"{name} ({len(gps):,})", color, features, style, shown)


def deployment_layers(deployment: DeploymentLayer, decimals: int | None) -> list[MapLayer]:
    """The deployment's points; and its centres, each with a true circle at the end of every bracket."""
    points = coarsen(deployment.points_deg, decimals)
    points = points[~np.isnan(points).any(axis=1)]
    cells, index = gather_cells(points, finest_resolution(decimals), _MAX_MARKERS)
    positions = coarsen(mean_positions(points, index, len(cells)), decimals)
    counts = np.bincount(index)
    features = [make_point(p, counted(n, "deployment point"), n) for p, n in zip(positions, counts, strict=True)]
    style = {"color": palette.DEPLOYMENT, "weight": 1, "fillColor": "#FFFFFF", "fillOpacity": 0.9, "fill": True}
    return [
        MapLayer("Deployment centres, brackets", palette.DEPLOYMENT, _centers(deployment, decimals), {}),
        MapLayer(f"Deployment points ({len(points):,})", "#FFFFFF", features, style, shown=False),
    ]


def _centers(deployment: DeploymentLayer, decimals: int | None) -> list[Feature]:
    clusters, brackets = deployment.clusters, deployment.brackets
    radii = coarsen_km(clusters.radius_km, decimals)
    features = []
    for number, center in enumerate(coarsen(clusters.centers_deg, decimals)):
        what = (
            f"Centre {number + 1}: {counted(clusters.sizes[number], 'deployment point')} within {radii[number]:.0f} km"
        )
        for ring, edge_km in enumerate(brackets.edges_km[1:]):
            if edge_km < FARTHEST_KM:
                lines = [lon_lat(line) for line in split_line(geodesic_circle(center, edge_km))]
                text = f"Centre {number + 1}\n{brackets.names[ring]}: weight {brackets.weights[ring]:g}"
                line_style = {"color": palette.DEPLOYMENT, "weight": 1.5, "opacity": 0.8, "fill": False}
                dash = {"dashArray": "6 4"} if ring else {}
                features.append(
                    make_feature({"type": "MultiLineString", "coordinates": lines}, text, line_style | dash)
                )
        marker = {"radius": 6, "color": "#FFFFFF", "weight": 2, "fillColor": palette.DEPLOYMENT, "fillOpacity": 1}
        features.append(make_feature(point_geometry(center), what, marker | {"fill": True}))
    return features


def bounds_of(*positions: np.ndarray) -> list[list[float]]:
    """[[south, west], [north, east]] of (N, 2) arrays of latitude, longitude in degrees, NaN where missing."""
    known = np.concatenate([gps[~np.isnan(gps).any(axis=1)] for gps in positions])
    return [known.min(axis=0).tolist(), known.max(axis=0).tolist()]
