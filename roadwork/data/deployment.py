"""Where the detector will be deployed: points from a csv, Parquet or GeoJSON file."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from roadwork.data.utils.gps_text import LATITUDE_NAMES, LONGITUDE_NAMES
from roadwork.data.utils.gps_utils import normalize_gps
from roadwork.errors import DataError

logger = logging.getLogger(__name__)

_TEXT_NAMES = ("gps",)
_FORMATS = ".csv, .parquet, .geojson or .json (GeoJSON)"


def load_deployment_points(path: Path) -> np.ndarray:
    """(M, 2) float64 latitude, longitude in degrees of a deployment file, without missing positions.

    A table's columns are found by name, in any case: ``latitude``/``lat`` with ``longitude``/``lon``/``lng``, or
    ``gps`` as text. GeoJSON holds Points or MultiPoints, longitude first (RFC 7946).

    Raises:
        DataError: The file is missing, of another kind, damaged, or without a point; or its positions cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist. Set data.gps_sampling.target to a file of deployment points: {_FORMATS}."
        )
    try:
        points = _read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as {path.suffix[1:]}: {error}. Mend it, or name another file with "
            "data.gps_sampling.target."
        ) from error
    if len(points) == 0:
        raise DataError(f"{path} holds no point with a position. Give at least one place of deployment.")
    return points


def _read(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _table_points(_read_csv(path), path.name)
    if suffix == ".parquet":
        return _table_points(pd.read_parquet(path), path.name)
    if suffix in {".geojson", ".json"}:
        positions = list(_geojson_positions(json.loads(path.read_text(encoding="utf-8-sig"))))
        return _normalized([y for _, y in positions], [x for x, _ in positions], None, "point", path.name)
    raise DataError(f"a deployment file is {_FORMATS}, not {suffix or 'without an extension'}.")


def _read_csv(path: Path) -> pd.DataFrame:
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = ";" if ";" in header else "\t" if "\t" in header else ","
    return pd.read_csv(path, sep=separator, encoding="utf-8-sig")


def _table_points(table: pd.DataFrame, file_name: str) -> np.ndarray:
    columns = {str(name).strip().lower(): name for name in table.columns}
    latitude, longitude, text = (
        next((table[columns[name]].to_numpy() for name in names if name in columns), None)
        for names in (LATITUDE_NAMES, LONGITUDE_NAMES, _TEXT_NAMES)
    )
    if latitude is None and longitude is None and text is None:
        raise DataError(
            f"no position among the columns {', '.join(map(str, table.columns))}. Name two of them latitude and "
            "longitude (or lat and lon), or one of them gps."
        )
    return _normalized(latitude, longitude, text, "row", file_name)


def _normalized(latitude: Any, longitude: Any, text: Any, row_word: str, file_name: str) -> np.ndarray:
    n_rows = len(next(column for column in (latitude, longitude, text) if column is not None))
    gps = normalize_gps(latitude, longitude, text, [f"{row_word} {number}" for number in range(1, n_rows + 1)])
    for note in gps.notes:
        logger.debug("%s: %s", file_name, note)
    points: np.ndarray = gps.coordinates[~np.isnan(gps.coordinates[:, 0])]
    return points


def _geojson_positions(node: Any) -> Iterator[tuple[Any, Any]]:
    """Longitude and latitude of each point below a GeoJSON object."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind == "FeatureCollection":
        for feature in node.get("features") or []:
            yield from _geojson_positions(feature)
    elif kind == "Feature":
        if node.get("geometry") is not None:  # RFC 7946: a feature without a place
            yield from _geojson_positions(node["geometry"])
    elif kind in {"Point", "MultiPoint"}:
        coordinates = node.get("coordinates") or []
        for position in [coordinates] if kind == "Point" and coordinates else coordinates:
            if not isinstance(position, list) or len(position) < 2:
                raise DataError(f"the {kind} position {position!r} is not [longitude, latitude].")
            yield position[0], position[1]
    else:
        raise DataError(
            f"GeoJSON type {kind!r} cannot be a deployment point; allowed: FeatureCollection and Feature of Point or "
            "MultiPoint. Convert other geometries to points, such as their centroids."
        )
