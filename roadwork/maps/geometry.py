"""Circles on the sphere and H3 cells, split at the antimeridian."""

from __future__ import annotations

import h3
import numpy as np

from roadwork.data.utils.geo import EARTH_RADIUS_KM, degrees_of, h3_cells, unit_vectors
from roadwork.data.utils.privacy import rounding_step_km

# The largest distance between two places.
FARTHEST_KM = float(np.pi * EARTH_RADIUS_KM)
_CIRCLE_POINTS = 96
_COARSEST, _FINEST = 1, 9  # H3 resolutions: cell sides of 480 km and 200 m

# Smallest cell side that can be seen and hovered over.
_SIDE_PIXELS = 9

# Web Mercator at zoom 0, on the equator.
_KM_PER_PIXEL = 2 * np.pi * 6378.137 / 256


def geodesic_circle(center_deg: np.ndarray, radius_km: float) -> np.ndarray:
    """(97, 2) latitude, longitude of a closed ring of points ``radius_km`` from the centre, along great circles.

    The point at angular distance a and bearing b from the centre c is cos(a) c + sin(a) (cos(b) north + sin(b) east).
    This vector form is also valid at the poles.

    Args:
        center_deg: (2,) latitude, longitude in degrees.
        radius_km: between 0 and `FARTHEST_KM`.
    """
    latitude, longitude = np.deg2rad(np.asarray(center_deg, dtype=np.float64))
    center = unit_vectors(np.asarray(center_deg)[None])[0]
    east = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
    north = np.array([-np.sin(latitude) * np.cos(longitude), -np.sin(latitude) * np.sin(longitude), np.cos(latitude)])
    angle = radius_km / EARTH_RADIUS_KM
    bearing = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS + 1)[:, None]
    return degrees_of(np.cos(angle) * center + np.sin(angle) * (np.cos(bearing) * north + np.sin(bearing) * east))


def split_line(line_deg: np.ndarray) -> list[np.ndarray]:
    """Splits a line of (V, 2) latitude, longitude into pieces (v, 2) that do not cross the antimeridian.

    Neighbouring points must be less than 180 degrees of longitude apart.
    """
    latitude, longitude = line_deg[:, 0], _unwrapped(line_deg[:, 1])
    world = np.floor((longitude + 180) / 360)
    pieces, piece = [], [(latitude[0], longitude[0] - 360 * world[0])]
    for i in range(1, len(line_deg)):
        if world[i] != world[i - 1]:
            seam = 360 * max(world[i], world[i - 1]) - 180
            share = (seam - longitude[i - 1]) / (longitude[i] - longitude[i - 1])
            crossing = latitude[i - 1] + share * (latitude[i] - latitude[i - 1])
            pieces.append([*piece, (crossing, seam - 360 * world[i - 1])])
            piece = [(crossing, seam - 360 * world[i])]
        piece.append((latitude[i], longitude[i] - 360 * world[i]))
    return [np.array(points) for points in (*pieces, piece)]


def split_ring(ring_deg: np.ndarray) -> list[np.ndarray]:
    """Splits a closed ring of (V, 2) latitude, longitude into closed rings (v, 2) that do not cross the antimeridian.

    A ring around a pole is closed along that pole. Neighbouring points must be less than 180 degrees apart.
    """
    latitude, longitude = ring_deg[:, 0], _unwrapped(ring_deg[:, 1])
    if abs(longitude[-1] - longitude[0]) > 180:
        pole = np.copysign(90.0, latitude.mean())
        latitude = np.concatenate([latitude, [pole, pole, latitude[0]]])
        longitude = np.concatenate([longitude, [longitude[-1], longitude[0], longitude[0]]])
    ring = np.stack([latitude, longitude], axis=1)
    worlds = np.arange(np.floor((longitude.min() + 180) / 360), np.floor((longitude.max() + 180) / 360) + 1)
    pieces = [
        clip_ring(clip_ring(ring, 1, 360 * world - 180, keep_above=True), 1, 360 * world + 180, keep_above=False)
        - [0, 360 * world]
        for world in worlds
    ]
    return [piece for piece in pieces if len(piece) and np.ptp(piece[:, 1]) > 0]


def cell_rings(cell: str) -> list[np.ndarray]:
    """The closed rings of an H3 cell."""
    boundary = np.array(h3.cell_to_boundary(cell))
    return split_ring(np.concatenate([boundary, boundary[:1]]))


def _unwrapped(longitude: np.ndarray) -> np.ndarray:
    unwrapped: np.ndarray = np.unwrap(longitude, period=360)
    return unwrapped


def clip_ring(ring: np.ndarray, axis: int, edge: float, *, keep_above: bool) -> np.ndarray:
    """(v, 2) the part of a closed ring (V, 2) on one side of an edge: one step of Sutherland and Hodgman (1974).

    Args:
        ring: its last point equals its first one.
        axis: 0 or 1, the coordinate to clip.
        edge: value of this coordinate on the edge.
        keep_above: whether the side above the edge is kept, or the one below.
    """
    inside = ring[:, axis] >= edge if keep_above else ring[:, axis] <= edge
    points = []
    for i in range(len(ring) - 1):
        if inside[i]:
            points.append(ring[i])
        if inside[i] != inside[i + 1]:
            share = (edge - ring[i, axis]) / (ring[i + 1, axis] - ring[i, axis])
            crossing = ring[i] + share * (ring[i + 1] - ring[i])
            crossing[axis] = edge
            points.append(crossing)
    return np.array([*points, *points[:1]]).reshape(-1, 2)


def finest_resolution(decimals: int | None) -> int:
    """The finest H3 resolution whose cells are not smaller than the grid of positions rounded to `decimals`."""
    fitting = [r for r in range(_COARSEST, _FINEST + 1) if _side_km(r) >= rounding_step_km(decimals)]
    return max(fitting)


def zoom_of(resolution: int, latitude: float) -> float:
    """The lowest web map zoom at which cells of a resolution are large enough to see; 0 for the coarsest."""
    if resolution == _COARSEST:
        return 0.0
    return float(np.log2(_SIDE_PIXELS * _KM_PER_PIXEL * np.cos(np.deg2rad(latitude)) / _side_km(resolution)))


def _side_km(resolution: int) -> float:
    return float(h3.average_hexagon_edge_length(resolution, unit="km"))


def gather_cells(gps: np.ndarray, resolution: int, max_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(C,) H3 cells, at most ``max_cells``, and (N,) the index of each row's cell.

    Args:
        gps: (N, 2) latitude, longitude in degrees, without NaN.
        resolution: H3 resolution; a coarser one is used if there are too many cells.
        max_cells: at least 842, the number of all cells at the coarsest resolution.
    """
    cells, index = np.unique(h3_cells(gps, resolution).astype(str), return_inverse=True)
    while len(cells) > max_cells:
        cells, parent = parent_cells(cells)
        index = parent[index]
    return cells, index


def parent_cells(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) parent cells of the next coarser resolution, and (C,) the index of each cell's parent."""
    parents, index = np.unique([h3.cell_to_parent(cell) for cell in cells], return_inverse=True)
    return parents, index


def cell_levels(gps: np.ndarray, decimals: int | None, max_cells: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """(resolution, (C,) cells, (C,) rows per cell), from the finest allowed resolution to the coarsest."""
    cells, index = gather_cells(gps, finest_resolution(decimals), max_cells)
    counts = np.bincount(index)
    levels = [(h3.get_resolution(cells[0]), cells, counts)]
    while levels[-1][0] > _COARSEST:
        cells, index = parent_cells(cells)
        counts = np.bincount(index, weights=counts).astype(int)
        levels.append((levels[-1][0] - 1, cells, counts))
    return levels


def mean_positions(gps: np.ndarray, index: np.ndarray, n_means: int) -> np.ndarray:
    """(C, 2) mean latitude, longitude in degrees of the rows of each cell, on the sphere."""
    sums = np.stack(
        [np.bincount(index, weights=component, minlength=n_means) for component in unit_vectors(gps).T], axis=1
    )
    return degrees_of(sums)
