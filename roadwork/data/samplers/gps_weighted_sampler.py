"""Draws training rows by how close they are to where the detector will be deployed."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Sampler

from roadwork.data.samplers.brackets import parse_brackets
from roadwork.data.samplers.classes import class_weights, measure_rows
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.draws import WeightClasses, draw_iid, draw_systematic
from roadwork.data.samplers.summary import SamplerSummary, summarize
from roadwork.errors import ConfigError, DataError
from roadwork.settings import DRAW_MODES, GpsSamplingSettings

# Row numbers become Python ints this many at a time: ten million at once would take 400 MB.
_CHUNK_ROWS = 1 << 16


class HasGps(Protocol):
    """A dataset that knows its rows' positions without fetching a row."""

    gps: np.ndarray  # (N, 2) latitude, longitude in degrees, NaN where missing

    def __len__(self) -> int: ...


class GPSWeightedSampler(Sampler[int]):
    """Row numbers of one epoch, N draws for N rows, weighted by distance to the nearest deployment cluster.

    An epoch's order depends on nothing but ``(random_seed, epoch)``; of it, rank r takes every ``world_size``-th
    row from r on, without padding or repeats, so ranks can differ by one row. ``set_epoch`` chooses the epoch of the
    next pass. Where nobody calls it, each complete pass moves on to the next epoch by itself; a pass that is broken
    off is repeated. ``start_at`` lets the next pass begin in the middle of its epoch.

    10^8 rows take 1.3 GB beyond their positions, and an epoch's order another 2 GB while it is drawn.

    Attributes:
        distances_km: (N,) float64 distance to the nearest cluster centre, NaN without GPS.
        cluster_centers: (K, 2) float64 latitude, longitude in degrees.
        clusters: the centres with their sizes, radii and coverage.
        epoch: the epoch that the next pass draws.
    """

    def __init__(
        self,
        data_source: HasGps,
        test_gps: np.ndarray,
        n_clusters: int | str = 5,
        weight_brackets: Sequence[Sequence[Any]] | None = None,
        random_seed: int = 42,
        *,
        missing_weight: float = 1.0,
        balance_labels: bool = False,
        draw: str = "systematic",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Measures distances and weighs rows; no row is fetched.

        Args:
            data_source: anything with ``__len__`` and ``gps`` (N, 2), latitude and longitude in degrees.
            test_gps: (M, 2) where the detector will be deployed, in degrees; rows with NaN are dropped.
            n_clusters: K-means clusters of the deployment, or ``auto``.
            weight_brackets: rows of [from_km, to_km, weight]; None for the defaults of the configuration.
            random_seed: of clusters and draws; 0 is a seed.
            missing_weight: weight of a row without GPS.
            balance_labels: scale the weights inside each bracket so that the label 1 keeps its share of all rows;
                ``data_source`` then needs ``labels`` (N,) of 0 and 1. Otherwise such labels only serve the summary.
            draw: ``systematic``: each row is drawn the floor or ceiling of its expected count; ``iid``: independently.
            rank: which share of the order this process takes, 0 to world_size - 1.
            world_size: number of processes.

        Raises:
            ConfigError: An argument that cannot be used; the message names its configuration key.
            DataError: GPS or labels of the wrong shape, no deployment point, or no row with a weight above 0.
        """
        if weight_brackets is None:
            weight_brackets = GpsSamplingSettings().weight_brackets
        self._brackets = parse_brackets(weight_brackets)
        _check_arguments(random_seed, missing_weight, draw, rank, world_size)
        gps = _check_gps("data_source.gps", data_source.gps)
        if len(gps) != len(data_source):
            raise DataError(f"data_source.gps has {len(gps)} rows, the dataset {len(data_source)}; they must agree.")

        first_edge_km = float(self._brackets.edges_km[1])
        self.clusters = cluster_deployment(_check_gps("test_gps", test_gps), n_clusters, first_edge_km, random_seed)
        self.cluster_centers = self.clusters.centers_deg
        labels = _usable_labels(data_source)
        if balance_labels and labels is None:
            raise DataError(
                "data.gps_sampling.balance_labels needs a dataset whose `labels` are 0 or 1, one a row. "
                "Give it such labels, or set data.gps_sampling.balance_labels=false."
            )
        self._has_labels = labels is not None
        self.distances_km, self._measured = measure_rows(gps, labels, self.cluster_centers, self._brackets)
        bracket_weights = np.append(self._brackets.weights, missing_weight)
        weights = class_weights(self._measured.sizes, bracket_weights, balance_labels=balance_labels)
        if not (self._measured.sizes * weights).any():
            raise DataError(
                f"Every one of the {len(gps)} rows has weight 0, so none could be drawn. Give the bracket they lie in "
                "(data.gps_sampling.weight_brackets) or data.gps_sampling.missing_weight a weight above 0."
            )
        self._classes = WeightClasses.from_index(self._measured.index, weights.ravel())
        self._draw = draw_systematic if draw == "systematic" else draw_iid
        self._random_seed = random_seed
        self._bracket_weights = bracket_weights
        self._balance_labels = balance_labels
        self._rank = rank
        self._world_size = world_size
        self._start = 0
        self.epoch = 0

    @cached_property
    def weights(self) -> np.ndarray:
        """(N,) float64 weight of each row; made when first asked for, as drawing needs no such array."""
        weights: np.ndarray = self._classes.weights[self._measured.index]
        return weights

    def __len__(self) -> int:
        return len(range(self._rank, len(self._classes.rows), self._world_size))

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        order = self.epoch_order()[self._rank :: self._world_size][self._start :]
        self._start = 0
        n_left = len(order)
        for start in range(0, len(order), _CHUNK_ROWS):
            for row in order[start : start + _CHUNK_ROWS].tolist():
                n_left -= 1
                # Before the last row, as a consumer that knows the length never asks for one more.
                if n_left == 0 and self.epoch == epoch:
                    self.epoch = epoch + 1
                yield row

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass, 0 or more."""
        self.epoch = epoch

    def start_at(self, position: int) -> None:
        """Begins the next pass, and only that, at this position of this rank's order, as after an interruption."""
        self._start = position

    def epoch_order(self) -> np.ndarray:
        """(N,) rows of ``epoch`` over all ranks, in order, as uint32 up to 2^32 rows; nothing is moved on by asking."""
        return self._draw(self._classes, np.random.default_rng([self._random_seed, self.epoch]))

    def summary(self) -> SamplerSummary:
        """What the weighting does; ``str`` of it is a short text for the log."""
        return summarize(
            self._measured,
            self._brackets.names,
            self._bracket_weights,
            self.clusters,
            has_labels=self._has_labels,
            balance_labels=self._balance_labels,
        )


def _check_arguments(random_seed: int, missing_weight: float, draw: str, rank: int, world_size: int) -> None:
    if random_seed < 0:
        raise ConfigError(f"data.gps_sampling.random_seed is {random_seed}; it must be a whole number >= 0.")
    if not (math.isfinite(missing_weight) and missing_weight >= 0):
        raise ConfigError(f"data.gps_sampling.missing_weight is {missing_weight}; it must be a finite number >= 0.")
    if draw not in DRAW_MODES:
        raise ConfigError(f"data.gps_sampling.draw is {draw!r}; allowed: {', '.join(DRAW_MODES)}.")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank} of world_size {world_size}; ranks run from 0 to world_size - 1.")


def _check_gps(name: str, gps: np.ndarray) -> np.ndarray:
    gps = np.asarray(gps)
    if gps.dtype.kind != "f":
        gps = gps.astype(np.float64)
    if gps.ndim != 2 or gps.shape[1] != 2:
        raise DataError(f"{name} has shape {gps.shape}; it must be (N, 2): latitude, longitude in degrees.")
    # fmin and fmax pass NaN over, and leave no array of N behind; column by column they are 20 times as fast.
    latitude, longitude = (max(np.fmax.reduce(c, initial=0), -np.fmin.reduce(c, initial=0)) for c in gps.T)
    if latitude > 90 or longitude > 180:
        raise DataError(f"{name} holds positions beyond latitude ±90 or longitude ±180 degrees; latitude comes first.")
    return gps


def _usable_labels(data_source: HasGps) -> np.ndarray | None:
    """(N,) labels where the dataset has them and each is 0 or 1, else None: only balancing needs any."""
    try:
        labels = np.asarray(getattr(data_source, "labels", None))
    except ValueError:  # lists of several labels a row
        return None
    if labels.shape != (len(data_source),) or labels.dtype.kind not in "iub":
        return None
    return labels if labels.min(initial=0) >= 0 and labels.max(initial=0) <= 1 else None
