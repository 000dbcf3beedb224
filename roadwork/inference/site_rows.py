"""The rows of a prediction that its roadwork sites are made of: detections, and what else was seen beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from roadwork.data.utils.position_tree import PositionTree
from roadwork.inference.detector import ROADWORK
from roadwork.inference.records import COLUMNS, Record

SITE_RADIUS_M = 50.0
_ROWS_AT_ONCE = 20_000


def write_prediction_sites(path: Path, records: Callable[[], Iterable[Record]], prior: float | None) -> int:
    """Writes the sites of a prediction as GeoJSON, and gives their number.

    Args:
        path: of the file.
        records: gives them anew, in a stream, at each call.
        prior: share of Roadwork that the probabilities are meant for; None where uncalibrated.
    """
    from roadwork.inference.sites import find_sites  # noqa: PLC0415 -- only where sites are asked for
    from roadwork.inference.sites_geojson import write_sites  # noqa: PLC0415

    sites = find_sites(rows_near_roadwork(records), radius_m=SITE_RADIUS_M, prior=prior)
    write_sites(sites, path)
    return len(sites)


def rows_near_roadwork(records: Callable[[], Iterable[Record]]) -> pd.DataFrame:
    """Detections that have a position, and the photos within a site's radius of one; others are in no site.

    So memory grows with the detections, not with the photos.
    """
    detections = [(r.latitude, r.longitude) for r in records() if r.label == ROADWORK and r.has_gps]
    if not detections:
        return _as_frame([])
    tree = PositionTree(np.array(detections, dtype=np.float64))
    chunks = []
    for placed in _in_chunks(record for record in records() if record.label is not None and record.has_gps):
        distance_km, _ = tree.nearest(placed[["latitude", "longitude"]].to_numpy(np.float64))
        chunks.append(placed[distance_km <= SITE_RADIUS_M / 1000])
    return pd.concat(chunks, ignore_index=True)


def _in_chunks(records: Iterator[Record]) -> Iterator[pd.DataFrame]:
    while rows := list(islice(records, _ROWS_AT_ONCE)):
        yield _as_frame(rows)


def _as_frame(records: list[Record]) -> pd.DataFrame:
    return pd.DataFrame([record.as_row() for record in records], columns=list(COLUMNS))
