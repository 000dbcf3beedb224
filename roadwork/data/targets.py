"""Where the detector will be deployed, as `data.gps_sampling.target` names it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.data.deployment import load_deployment_points
from roadwork.data.huggingface import read_huggingface_gps
from roadwork.data.table import SampleTable
from roadwork.errors import ConfigError
from roadwork.settings import SPLIT_NAMES, DataSettings

DEPLOYMENT_FILES = ("deployment.geojson", "deployment.csv", "deployment.parquet")
_KEY = "data.gps_sampling.target"
_DATASET_PREFIX = "dataset:"
_SPLIT_COLUMN = "split"


def find_deployment(data: DataSettings, table: SampleTable, split_names: np.ndarray) -> tuple[np.ndarray, str]:
    """((M, 2) latitude and longitude in degrees where the detector will be deployed, where they come from).

    Args:
        data: names the target.
        table: of the dataset.
        split_names: (N,) split of each row.

    Raises:
        ConfigError: `data.gps_sampling.target` is nothing that is allowed, or gives no position.
        DataError: the file or the dataset's split that it names cannot be read.
    """
    target = data.gps_sampling.target
    if isinstance(target, Sequence) and not isinstance(target, str):
        return _inline_points(target), f"{len(target)} points of {_KEY}"
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
        return load_deployment_points(Path(target)), target
    raise ConfigError(
        f"{_KEY} is {target!r}. Allowed: auto; {', '.join(SPLIT_NAMES)}; dataset:NAME, the dataset's own split of that "
        "name; a csv, parquet or GeoJSON file that is there; or points, such as [[52.37, 4.90], [35.68, 139.65]]."
    )


def _known(points: np.ndarray, data: DataSettings, target: str) -> np.ndarray:
    known: np.ndarray = points[~np.isnan(points).any(axis=1)]
    if len(known) == 0:
        raise ConfigError(
            f"{_KEY} is {data.gps_sampling.target}, but no row of {target} has GPS. "
            "Name a csv, parquet or GeoJSON file of deployment points, or set data.gps_sampling.enabled=false."
        )
    return known


def _dataset_split(data: DataSettings, table: SampleTable, name: str) -> np.ndarray:
    """(M, 2) positions of a split that the dataset's makers made, NaN where missing; nothing else of it is read."""
    if data.mode == "huggingface":
        return read_huggingface_gps(data.hub.name, name, data.columns)
    if _SPLIT_COLUMN not in table.slices:
        raise ConfigError(
            f"{_KEY} is dataset:{name}, but {data.root} has no column `{_SPLIT_COLUMN}` that would say which rows "
            f"those are. Add one to the labels file, or name a split of ours: {', '.join(SPLIT_NAMES)}."
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
        raise ConfigError(f"{_KEY} is an empty list. Give at least one point, such as [[52.37, 4.90]].")
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
            f"{_KEY} holds {position!r}, which is not a pair of numbers. "
            "Write points as [[latitude, longitude], ...], such as [[52.37, 4.90]]."
        ) from None
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ConfigError(
            f"{_KEY} holds [{latitude:g}, {longitude:g}], which is no place. Write degrees, latitude (±90) first, then "
            "longitude (±180)."
        )
    return latitude, longitude
