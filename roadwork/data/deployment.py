"""Deployment points, and their coverage by the training photos."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.huggingface import read_huggingface_gps
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import EARTH_RADIUS_KM, degrees_of, find_exchanged, unit_vectors
from roadwork.data.utils.gps_utils import LATITUDE_NAMES, LONGITUDE_NAMES, normalize_gps
from roadwork.settings import SPLIT_NAMES, DataSettings

logger = logging.getLogger(__name__)

_TEXT_NAMES = ("gps",)
_FORMATS = ".csv, .parquet, .geojson or .json (GeoJSON)"
DEPLOYMENT_FILES = ("deployment.geojson", "deployment.csv", "deployment.parquet")
_KEY = "data.gps_sampling.target"
_DATASET_PREFIX = "dataset:"
_SPLIT_COLUMN = "split"
REACH_KM = 200.0

# Training rows are searched in chunks; for most deployments the first chunk already covers all points.
_CHUNK_ROWS = 1 << 20
_SHOWN = 5


def load_deployment_points(path: Path) -> np.ndarray:
    """(M, 2) float64 latitude, longitude in degrees of a deployment file, without missing positions.

    A table's columns are found by name, in any case: ``latitude``/``lat`` with ``longitude``/``lon``/``lng``, or
    ``gps`` as text. GeoJSON holds Points or MultiPoints, longitude first (RFC 7946).

    Raises:
        DataError: the file is missing, damaged, of another format, without points, or its positions are unusable.
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
            f"{path} cannot be read as {path.suffix[1:]}: {error}. Fix it, or name another file with "
            "data.gps_sampling.target."
        ) from error
    if len(points) == 0:
        raise DataError(f"{path} has no point with a position. Add at least one place of deployment.")
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
    """Longitude and latitude of each point in a GeoJSON object."""
    kind = node.get("type") if isinstance(node, dict) else None
    if kind == "FeatureCollection":
        for feature in node.get("features") or []:
            yield from _geojson_positions(feature)
    elif kind == "Feature":
        if node.get("geometry") is not None:  # RFC 7946: a feature without a location
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


def find_deployment(data: DataSettings, table: SampleTable, split_names: np.ndarray) -> tuple[np.ndarray, str]:
    """(M, 2) latitude and longitude in degrees of the deployment, and their origin in words.

    Args:
        data: the settings, with `gps_sampling.target`.
        table: the metadata of N rows.
        split_names: (N,) split of each row.

    Raises:
        ConfigError: `data.gps_sampling.target` is not allowed, or has no position.
        DataError: the file or the dataset's split cannot be read.
    """
    target = data.gps_sampling.target
    if isinstance(target, Sequence) and not isinstance(target, str):
        return _checked(_inline_points(target), table), f"{len(target)} points of {_KEY}"
    if target == "auto":
        root = Path(data.root if data.mode == "local" else data.hub.name)
        present = [root / name for name in DEPLOYMENT_FILES if (root / name).is_file()]
        target = str(present[0]) if present else "val_test"
    if target in SPLIT_NAMES:
        return _known(table.gps[split_names == target], data, target), f"the coordinates of {target}"
    if isinstance(target, str) and target.startswith(_DATASET_PREFIX):
        name = target.removeprefix(_DATASET_PREFIX).strip()
        return _known(_dataset_split(data, table, name), data, target), f"the dataset's own split {name}"
    if isinstance(target, str) and Path(target).is_file():
        return _checked(load_deployment_points(Path(target)), table), target
    raise ConfigError(
        f"{_KEY} is {target!r}. Allowed: auto; {', '.join(SPLIT_NAMES)}; dataset:NAME, the dataset's own split of that "
        "name; a csv, parquet or GeoJSON file that exists; or points, such as [[52.37, 4.90], [35.68, 139.65]]."
    )


def _checked(points: np.ndarray, table: SampleTable) -> np.ndarray:
    """The points; warns of rows that are near them only with latitude and longitude exchanged."""
    if len(rows := find_exchanged(table.gps, points)):
        logger.warning(
            "%s of %s rows are near the deployment only with latitude and longitude exchanged, first %s: %s. Check the "
            "columns of the data and of the deployment.",
            *(f"{len(rows):,}", f"{len(table):,}", table.ids[rows[0]], "{:g}, {:g}".format(*table.gps[rows[0]])),
        )
    return points


def _known(points: np.ndarray, data: DataSettings, target: str) -> np.ndarray:
    known: np.ndarray = points[~np.isnan(points).any(axis=1)]
    if len(known) == 0:
        raise ConfigError(
            f"{_KEY} is {data.gps_sampling.target}, but no row of {target} has GPS. "
            "Name a csv, parquet or GeoJSON file of deployment points, or set data.gps_sampling.enabled=false."
        )
    return known


def _dataset_split(data: DataSettings, table: SampleTable, name: str) -> np.ndarray:
    """(M, 2) positions of the dataset's own split, NaN where missing; reads nothing else of it."""
    if data.mode == "huggingface":
        return read_huggingface_gps(data.hub.name, name, data.columns)
    if _SPLIT_COLUMN not in table.slices:
        raise ConfigError(
            f"{_KEY} is dataset:{name}, but {data.root} has no column `{_SPLIT_COLUMN}` with the "
            f"split of each row. Add one to the labels file, or name one of the four splits: {', '.join(SPLIT_NAMES)}."
        )
    values = table.slices[_SPLIT_COLUMN].astype(str).str.strip()
    if not (values == name).any():
        raise ConfigError(
            f"{_KEY} is dataset:{name}, but the column `{_SPLIT_COLUMN}` of {data.root} has only "
            f"{', '.join(sorted(values.unique())[:10])}. Name one of these."
        )
    points: np.ndarray = table.gps[(values == name).to_numpy()]
    return points


def _inline_points(target: Sequence[Any]) -> np.ndarray:
    if not len(target):
        raise ConfigError(f"{_KEY} is an empty list. List at least one point, such as [[52.37, 4.90]].")
    return np.array([_inline_point(position) for position in target])


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _inline_point(position: Any) -> tuple[float, float]:
    try:
        latitude, longitude = map(_number, () if isinstance(position, str) else position)
    except (TypeError, ValueError):
        raise ConfigError(
            f"{_KEY} has {position!r}, which is not a pair of numbers. "
            "Write points as [[latitude, longitude], ...], such as [[52.37, 4.90]]."
        ) from None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ConfigError(
            f"{_KEY} has [{latitude:g}, {longitude:g}], which is outside the globe. Write degrees, latitude (±90) "
            "first, then longitude (±180)."
        )
    return latitude, longitude


def unreachable_targets(points: np.ndarray, train_gps: np.ndarray, radius_km: float = REACH_KM) -> str | None:
    """A warning about deployment points that no training image covers; None if all are covered.

    Args:
        points: (M, 2) latitude, longitude of the deployment in degrees; rows with NaN are ignored.
        train_gps: (N, 2) of the training rows; likewise.
        radius_km: a training image covers the points within this great-circle distance.
    """
    points = points[~np.isnan(points).any(axis=1)]
    nearest_km = _nearest_row_km(points, train_gps, radius_km)
    is_far = nearest_km > radius_km
    if not is_far.any():
        return None
    if np.isinf(nearest_km).any():
        return "No training image has GPS, so weighting cannot help: no row is known to be near the deployment."
    places = _places(points[is_far], nearest_km[is_far], radius_km)
    shown = [
        f"{count:,} near {latitude:.1f}, {longitude:.1f} (the closest training image is {km:,.0f} km away)"
        for count, latitude, longitude, km in places[:_SHOWN]
    ]
    if len(places) > _SHOWN:
        shown.append(f"{sum(place[0] for place in places[_SHOWN:]):,} at {len(places) - _SHOWN} other places")
    return (
        f"Weighting cannot help {is_far.sum():,} of {len(points):,} deployment points, which have no training image "
        f"within {radius_km:g} km: {'; '.join(shown)}. Add training images from there."
    )


def _nearest_row_km(points: np.ndarray, train_gps: np.ndarray, radius_km: float) -> np.ndarray:
    """(M,) distance to the nearest training row, exact if above the radius; inf without any row with GPS."""
    vectors = unit_vectors(points)
    chord = np.full(len(points), np.inf)
    for start in range(0, len(train_gps), _CHUNK_ROWS):
        chunk = train_gps[start : start + _CHUNK_ROWS]
        chunk = chunk[~np.isnan(chunk).any(axis=1)]
        far = np.flatnonzero(chord > 2 * np.sin(min(radius_km / EARTH_RADIUS_KM, np.pi) / 2))
        if len(far) == 0:
            break
        if len(chunk):
            chord[far] = np.minimum(chord[far], cKDTree(unit_vectors(chunk)).query(vectors[far])[0])
    distance: np.ndarray = np.where(
        np.isinf(chord), np.inf, 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1.0))
    )
    return distance


def _places(points: np.ndarray, nearest_km: np.ndarray, radius_km: float) -> list[tuple[int, float, float, float]]:
    """Groups of nearby points, the largest first: number, mean latitude and longitude, smallest `nearest_km`.

    The first remaining point is the centre of each group.
    """
    vectors = unit_vectors(points)
    places = []
    while len(vectors):
        is_here = vectors @ vectors[0] >= np.cos(radius_km / EARTH_RADIUS_KM)
        is_here[0] = True  # even if rounding makes its distance to itself positive
        latitude, longitude = degrees_of(vectors[is_here].sum(axis=0, keepdims=True))[0].tolist()
        places.append((int(is_here.sum()), latitude, longitude, float(nearest_km[is_here].min())))
        vectors, nearest_km = vectors[~is_here], nearest_km[~is_here]
    return sorted(places, key=lambda place: -place[0])
