"""Map of errors as inline SVG."""

from __future__ import annotations

import json
import math
from importlib.resources import files

import numpy as np
import pandas as pd
from markupsafe import Markup

from roadwork.maps.geometry import clip_ring

_WIDTH, _MAX_HEIGHT, _MIN_HEIGHT = 760.0, 480.0, 260.0
# In pixels: photos within _PLACE share a mark; photos in one square of _CELL count as one point.
_PLACE, _CELL = 22.0, 4.0
_MIN_SPAN_DEG = 0.02
_MARGIN = 5.0  # of land beyond the view, in pixels
_LARGEST_MARK, _SMALLEST_ERROR = 18.0, 3.6  # radii in pixels; errors stay visible on a phone


class _View:
    """An equirectangular view of positions, true to scale at its middle latitude.

    Args:
        gps: (N, 2) latitude, longitude in degrees, without NaN.
    """

    def __init__(self, gps: np.ndarray) -> None:
        low, high = gps.min(axis=0), gps.max(axis=0)
        middle, span = (low + high) / 2, np.maximum(high - low, _MIN_SPAN_DEG) * 1.24
        shrink = math.cos(math.radians(float(np.clip(middle[0], -80, 80))))
        # The height follows the data's aspect ratio, within bounds; the larger extent sets the scale.
        self.height = float(np.clip(_WIDTH * span[0] / (span[1] * shrink), _MIN_HEIGHT, _MAX_HEIGHT))
        self._scale = min(self.height / span[0], _WIDTH / (span[1] * shrink))
        self._middle, self._shrink = middle, shrink

    def place(self, gps: np.ndarray) -> np.ndarray:
        """(N, 2) x, y in pixels."""
        x = _WIDTH / 2 + (gps[:, 1] - self._middle[1]) * self._shrink * self._scale
        y = self.height / 2 - (gps[:, 0] - self._middle[0]) * self._scale
        return np.stack([x, y], axis=1)


def draw_error_map(rows: pd.DataFrame, is_wrong: np.ndarray) -> Markup | None:
    """Circles sized by the number of photos, errors in colour on top; None if no row has a position.

    Args:
        rows: N rows of a predictions table.
        is_wrong: (N,) bool.
    """
    gps = rows[["latitude", "longitude"]].to_numpy(np.float64)
    known = ~np.isnan(gps).any(axis=1)
    if not known.any():
        return None
    view = _View(gps[known])
    xy = view.place(gps[known])
    places = _find_places(xy)
    most = int(np.bincount(places).max())
    is_miss = rows["label"].to_numpy()[known] == 1
    misses, alarms = is_wrong[known] & is_miss, is_wrong[known] & ~is_miss
    marks = [
        _mark(xy[here].mean(axis=0), int(here.sum()), int(misses[here].sum()), int(alarms[here].sum()), most)
        for here in (places == place for place in range(places.max() + 1))
    ]
    frame = Markup(
        '<svg class="map" viewBox="0 0 %s %s" role="img"><title>Photos and errors on val_test</title>'
        '<rect class="sea" width="%s" height="%s"/><path class="land" d="%s"/>%s</svg>'
    )
    return frame % (_WIDTH, f"{view.height:.0f}", _WIDTH, f"{view.height:.0f}", _land(view), Markup("").join(marks))


def _find_places(xy: np.ndarray) -> np.ndarray:
    """(N,) place of each point (N, 2), from 0. Cells with the most points become places first and take nearby cells."""
    cells, cell_of, sizes = np.unique(xy // _CELL, axis=0, return_inverse=True, return_counts=True)
    centers: list[np.ndarray] = []
    place_of_cell = np.empty(len(cells), dtype=np.int64)
    for cell in np.argsort(-sizes, kind="stable"):
        distances = np.linalg.norm(np.array(centers).reshape(-1, 2) - cells[cell], axis=1) * _CELL
        near = int(np.argmin(distances)) if centers else -1
        if near < 0 or distances[near] > _PLACE:
            near = len(centers)
            centers.append(cells[cell])
        place_of_cell[cell] = near
    places: np.ndarray = place_of_cell[cell_of.reshape(-1)]
    return places


def _mark(place: np.ndarray, n: int, misses: int, alarms: int, most: int) -> Markup:
    """A disc for all photos, with the errors by kind inside; areas are proportional to counts, with a minimum size."""
    x, y = (f"{value:.1f}" for value in place)
    outer = _LARGEST_MARK * math.sqrt(n / most)
    drawn = Markup('<circle class="photos" cx="%s" cy="%s" r="%s"/>') % (x, y, f"{max(outer, 2.0):.1f}")
    if misses + alarms:
        radius = max(outer * math.sqrt((misses + alarms) / n), _SMALLEST_ERROR)
        drawn += Markup('<circle class="alarm" cx="%s" cy="%s" r="%s"/>') % (x, y, f"{radius:.1f}")
        if misses:
            inner = radius * math.sqrt(misses / (misses + alarms))
            drawn += Markup('<circle class="miss" cx="%s" cy="%s" r="%s"/>') % (x, y, f"{inner:.1f}")
    text = f"{n:,} photos, {misses:,} missed roadwork, {alarms:,} false alarms"
    return Markup("<g>%s<title>%s</title></g>") % (drawn, text)


def _land(view: _View) -> str:
    """The SVG path of the land in view."""
    land = json.loads((files("roadwork.maps") / "assets" / "land.geojson").read_text(encoding="utf-8"))
    drawn = []
    for polygon in land["coordinates"]:
        for ring in polygon:
            xy = view.place(np.array(ring)[:, ::-1])
            if (xy.max(axis=0) < 0).any() or xy[:, 0].min() > _WIDTH or xy[:, 1].min() > view.height:
                continue
            places = dict.fromkeys(f"{x:.1f} {y:.1f}" for x, y in _clip(xy, view.height).tolist())
            if len(places) > 2:
                drawn.append("M" + "L".join(places) + "Z")
    return "".join(drawn)


def _clip(ring: np.ndarray, height: float) -> np.ndarray:
    """(v, 2) the part of a closed ring in view, with a margin."""
    for axis, end in enumerate((_WIDTH, height)):
        ring = clip_ring(ring, axis, -_MARGIN, keep_above=True)
        ring = clip_ring(ring, axis, end + _MARGIN, keep_above=False)
    return ring
