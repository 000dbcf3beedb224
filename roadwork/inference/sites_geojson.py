"""Sites as a file: GeoJSON for a map, csv for a spreadsheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from roadwork.errors import ConfigError
from roadwork.runs import atomic_path

# 11 cm; no GPS knows more.
_DECIMALS = 6
_SUFFIXES = (".geojson", ".json", ".csv")


def write_sites(sites: pd.DataFrame, path: Path) -> None:
    """Writes sites, as `find_sites` gives them, atomically: GeoJSON (RFC 7946), or csv with the photos' names as JSON.

    Raises:
        ConfigError: the name ends in none of .geojson, .json, .csv.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path} cannot be written; sites go to a file that ends in {', '.join(_SUFFIXES)}.")
    rounded = sites.assign(
        latitude=sites["latitude"].astype(float).round(_DECIMALS),
        longitude=sites["longitude"].astype(float).round(_DECIMALS),
        radius_m=sites["radius_m"].astype(float).round(1),
        probability=sites["probability"].astype(float).round(_DECIMALS),
    )
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            names = [json.dumps(photos, ensure_ascii=False) for photos in rounded["photos"]]
            rounded.assign(photos=names).to_csv(temporary, index=False)
        else:
            features = [_feature(row) for row in rounded.to_dict("records")]
            content = {"type": "FeatureCollection", "features": features}
            temporary.write_text(json.dumps(content, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")


def _feature(site: dict[Any, Any]) -> dict[str, Any]:
    longitude, latitude = site.pop("longitude"), site.pop("latitude")
    properties = {name: None if value is None or value is pd.NA else value for name, value in site.items()}
    return {
        "type": "Feature",
        "id": properties["site_id"],
        "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
        "properties": properties,
    }
