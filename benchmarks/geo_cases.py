"""The cases of `benchmarks.geo`. `python -m benchmarks.geo_cases TASK TOOL ROWS` measures one and prints JSON."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np

# Each case imports its own tool, so that a process loads only the tool that it measures.
# ruff: noqa: PLC0415

CITIES = np.array([[52.52, 13.40], [48.86, 2.35], [40.42, -3.70], [41.90, 12.50], [48.21, 16.37]])
FIRST_DRAWS = 2_000_000
BUFFER_KM = 1.0
GEOPY_SAMPLE = 2_000
MAX_PAIRS = 2 * 10**8
_CHUNK_ROWS = 1 << 20

Run = Callable[[], float]
"""The timed function. Returns the factor from the measured to the full work; 1 if all of it was done."""


def spread_out(rows: int, seed: int = 0) -> np.ndarray:
    """Returns (rows, 2) latitudes and longitudes in degrees across Europe. Drawn in chunks, to limit peak memory."""
    rng = np.random.default_rng(seed)
    gps = np.empty((rows, 2))
    for start in range(0, rows, _CHUNK_ROWS):
        piece = gps[start : start + _CHUNK_ROWS]
        piece[:] = rng.uniform((36, -9), (56, 20), piece.shape)
    return gps


def dense_city(rows: int) -> np.ndarray:
    """Returns (rows, 2) latitudes and longitudes in degrees within 30 x 30 km."""
    side = 30 / 111.2
    return np.random.default_rng(0).uniform(
        (52.4, 13.2), (52.4 + side, 13.2 + side / np.cos(np.deg2rad(52.5))), (rows, 2)
    )


class Rows:
    """A dataset that only has GPS positions."""

    def __init__(self, gps: np.ndarray) -> None:
        self.gps = gps

    def __len__(self) -> int:
        return len(self.gps)


def nearest_ours(rows: int) -> Run:
    from roadwork.data.utils.geo import nearest_km

    gps = spread_out(rows)

    def run() -> float:
        nearest_km(gps, CITIES)
        return 1

    return run


def nearest_balltree(rows: int) -> Run:
    from sklearn.neighbors import BallTree

    gps = spread_out(rows)

    def run() -> float:
        BallTree(np.deg2rad(CITIES), metric="haversine").query(np.deg2rad(gps))
        return 1

    return run


def nearest_geopy(rows: int) -> Run:
    from geopy.distance import great_circle

    sample = spread_out(min(rows, GEOPY_SAMPLE)).tolist()

    def run() -> float:
        for point in sample:
            min(great_circle(point, city).km for city in CITIES)
        return rows / len(sample)

    return run


def epoch_ours(rows: int) -> Run:
    from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

    dataset = Rows(spread_out(rows))

    def run() -> float:
        deque(GPSWeightedSampler(dataset, CITIES, n_clusters=len(CITIES)), maxlen=0)
        return 1

    return run


def first_draws_ours(rows: int) -> Run:
    from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

    dataset = Rows(spread_out(rows))

    def run() -> float:
        deque(islice(GPSWeightedSampler(dataset, CITIES, n_clusters=len(CITIES)), FIRST_DRAWS), maxlen=0)
        return 1

    return run


def weights_of(rows: int) -> np.ndarray:
    """Returns (rows,) sampling weights, distributed roughly as with the default distance brackets."""
    return np.random.default_rng(0).choice([5.0, 2.5, 1.0, 0.3], rows, p=[0.01, 0.11, 0.4, 0.48])


def epoch_torch(rows: int) -> Run:
    import torch
    from torch.utils.data import WeightedRandomSampler

    sampler = WeightedRandomSampler(torch.from_numpy(weights_of(rows)), rows)

    def run() -> float:
        deque(sampler, maxlen=0)
        return 1

    return run


def epoch_numpy(rows: int) -> Run:
    weights = weights_of(rows)

    def run() -> float:
        order = np.random.default_rng(0).choice(rows, rows, p=weights / weights.sum())
        for start in range(0, rows, 1 << 16):
            deque(order[start : start + (1 << 16)].tolist(), maxlen=0)
        return 1

    return run


def groups_ours(gps: np.ndarray) -> Run:
    import pandas as pd

    from roadwork.data.grouping.groups import make_groups
    from roadwork.data.table import SampleTable

    ids = np.array([f"{row:08d}" for row in range(len(gps))], dtype=object)
    blank = np.full(len(gps), "", dtype=object)
    table = SampleTable(ids, ids, np.zeros(len(gps), dtype=np.int64), gps, blank, pd.DataFrame(index=range(len(gps))))
    no_pairs = np.empty((0, 2), dtype=np.int64)

    def run() -> float:
        make_groups(table, buffer_km=BUFFER_KM, max_group_share=0.05, duplicates=no_pairs)
        return 1

    return run


def groups_balltree(gps: np.ndarray) -> Run:
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import BallTree

    radius = BUFFER_KM / 6371.0088

    def run() -> float:
        points = np.deg2rad(gps)
        tree = BallTree(points, metric="haversine")
        n_pairs = tree.query_radius(points[:200], radius, count_only=True).mean() * len(gps)
        if n_pairs > MAX_PAIRS:
            raise MemoryError(f"{n_pairs:.1e} pairs within {BUFFER_KM:g} km, {8 * n_pairs / 1e9:.0f} GB of indices")
        found = tree.query_radius(points, radius)
        ends = np.cumsum([0, *map(len, found)])
        indices = np.concatenate(found)
        connected_components(csr_matrix((np.ones(len(indices), dtype=bool), indices, ends), shape=(len(gps),) * 2))
        return 1

    return run


TASKS: dict[str, dict[str, Callable[[int], Run]]] = {
    "distance to the nearest of 5 centres": {
        "roadwork": nearest_ours,
        "scikit-learn BallTree": nearest_balltree,
        "geopy, point by point": nearest_geopy,
    },
    "an epoch of weighted draws": {
        "roadwork": epoch_ours,
        "torch WeightedRandomSampler": epoch_torch,
        "numpy choice(p=)": epoch_numpy,
    },
    "weights and the first two million draws": {"roadwork": first_draws_ours},
    "groups within 1 km, spread out": {
        "roadwork": lambda rows: groups_ours(spread_out(rows)),
        "scikit-learn BallTree": lambda rows: groups_balltree(spread_out(rows)),
    },
    "groups within 1 km, one dense city": {
        "roadwork": lambda rows: groups_ours(dense_city(rows)),
        "scikit-learn BallTree": lambda rows: groups_balltree(dense_city(rows)),
    },
}


def measure(run: Run) -> dict[str, float | str | None]:
    """Measures the wall time and CPU time in seconds, and the peak memory beyond tools and input in GB.

    ``scale`` is above 1 if the times are extrapolated. ``error`` is the message if the run failed.
    """
    before, start, cpu_start = _held_bytes(), time.perf_counter(), time.process_time()
    try:
        scale, error = run(), None
    except (RuntimeError, MemoryError) as caught:
        scale, error = 1.0, str(caught).splitlines()[0]
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {
        "seconds": None if error else seconds * scale,
        "cpu_seconds": None if error else cpu_seconds * scale,
        "beyond_gb": None if error else max(0, _peak_bytes() - before) / 1e9,
        "peak_gb": _peak_bytes() / 1e9,
        "scale": scale,
        "error": error,
    }


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _held_bytes() -> int:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * resource.getpagesize() if statm.is_file() else _peak_bytes()


def main() -> None:
    task, tool, rows = sys.argv[1:]
    sys.stdout.write(json.dumps(measure(TASKS[task][tool](int(rows)))) + "\n")


if __name__ == "__main__":
    main()
