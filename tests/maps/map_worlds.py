"""A small world that the tests of maps share."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd

from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.table import SampleTable
from roadwork.maps.layers import DeploymentLayer
from roadwork.settings import SPLIT_NAMES, GpsSamplingSettings


def make_table(gps: np.ndarray, filenames: list[str] | None = None) -> SampleTable:
    n_rows = len(gps)
    names = filenames or [f"images/{row}.jpg" for row in range(n_rows)]
    return SampleTable(
        np.array([str(row) for row in range(n_rows)], dtype=object),
        np.array(names, dtype=object),
        np.arange(n_rows) % 2,
        np.asarray(gps, dtype=np.float64),
        np.full(n_rows, "", dtype=object),
        pd.DataFrame(index=range(n_rows)),
    )


def make_world(n_rows: int = 60, filenames: list[str] | None = None) -> tuple[SampleTable, np.ndarray, pd.DataFrame]:
    """Rows around Amsterdam, and Suva beside the antimeridian; every tenth lacks GPS, half of the predictions err."""
    rng = np.random.default_rng(0)
    centers = np.array([[52.37, 4.9], [-18.1, 179.9]])
    gps = centers[np.arange(n_rows) % 2] + rng.normal(0, 0.3, (n_rows, 2))
    gps[:, 1] = (gps[:, 1] + 180) % 360 - 180
    gps[::10] = np.nan
    table = make_table(gps, filenames)
    split_names = np.array([*SPLIT_NAMES, ""], dtype=object)[np.arange(n_rows) // 2 % 5]
    judged = np.isin(split_names, SPLIT_NAMES[1:])
    predictions = pd.DataFrame(
        {
            "filename": table.filenames,
            "split": split_names,
            "label": table.labels,
            "probability": rng.uniform(0, 1, n_rows),
            "latitude": gps[:, 0],
            "longitude": gps[:, 1],
        }
    )[judged].reset_index(drop=True)
    return table, split_names, predictions


def make_deployment(points: np.ndarray, origin: str = "deployment.csv") -> DeploymentLayer:
    brackets = parse_brackets(GpsSamplingSettings().weight_brackets)
    return DeploymentLayer(points, cluster_deployment(points, 1, 50.0, 0), brackets, origin)


def layers_of(page: str) -> list[list[dict]]:
    """The features of each layer of a page, the land left out."""
    collections = re.findall(r'_add\((\{"features":.*\})\);', page)
    return [json.loads(collection)["features"] for collection in collections]


def without_random_names(page: str) -> str:
    """folium names each of its elements at random."""
    return re.sub(r"_[0-9a-f]{32}", "", page)
