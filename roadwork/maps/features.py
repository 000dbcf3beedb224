"""What a map draws, as GeoJSON features gathered in layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Feature = dict[str, Any]

# Of positions that are kept whole: 11 cm, what a file of positions commonly has.
_WHOLE_DECIMALS = 6


@dataclass(frozen=True)
class MapLayer:
    """One layer that can be switched.

    Attributes:
        name: beside its switch; no text of the data's.
        color: of the swatch beside the name.
        features: GeoJSON; ``properties.text`` is said on hovering, as text and never as HTML; a feature with
            ``properties.zoom`` is drawn from the first zoom on and before the second.
        style: Leaflet's path options for all features; a feature's own ``properties.style`` goes before them.
        shown: whether it is switched on when the map opens.
    """

    name: str
    color: str
    features: list[Feature]
    style: dict[str, Any]
    shown: bool = True


def make_point(position: np.ndarray, text: str, count: int) -> Feature:
    """A marker at (2,) latitude, longitude in degrees, the larger the more it stands for."""
    return make_feature(point_geometry(position), text, {"radius": round(4 + 2 * float(np.log10(count)), 1)})


def point_geometry(position: np.ndarray) -> dict[str, Any]:
    """The geometry of (2,) latitude, longitude in degrees."""
    return {"type": "Point", "coordinates": lon_lat(position[None])[0]}


def make_feature(geometry: dict[str, Any], text: str, style: dict[str, Any]) -> Feature:
    """A feature with what is said on hovering, and Leaflet's path options of its own."""
    return {"type": "Feature", "geometry": geometry, "properties": {"text": text, "style": style}}


def lon_lat(line_deg: np.ndarray) -> Sequence[list[float]]:
    """The positions of (V, 2) latitude, longitude in degrees in the order of GeoJSON, longitude first."""
    lines: Sequence[list[float]] = line_deg[:, ::-1].round(_WHOLE_DECIMALS).tolist()
    return lines


def counted(count: int, noun: str) -> str:
    """The number with its noun in singular or plural."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
