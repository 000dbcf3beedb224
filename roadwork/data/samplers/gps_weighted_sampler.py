"""Draws training rows by their distance to the deployment."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from roadwork.core.errors import DataError
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.summary import SamplerSummary, name_brackets, summarize
from roadwork.data.samplers.weights import Mixture, measure_rows, nothing_to_draw, parse_brackets, stratum_weights
from roadwork.settings import GpsSamplingSettings


class HasGps(Protocol):
    """A dataset that has its rows' positions without fetching a row."""

    gps: np.ndarray  # (N, 2) latitude, longitude in degrees, NaN where missing

    def __len__(self) -> int: ...


class GPSWeightedSampler(StratifiedSampler):
    """Row numbers of one epoch, N draws for N rows, weighted by distance to the nearest deployment cluster.

    ``StratifiedSampler`` defines the order of an epoch, its ranks and its start.

    10^8 rows take 1.3 GB beyond their positions, and drawing an epoch takes another 2 GB.

    Attributes:
        distances_km: (N,) float64 distance to the nearest cluster centre, NaN without GPS.
        cluster_centers: (K, 2) float64 latitude, longitude in degrees.
        clusters: the centres with their sizes, radii and coverage.
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
        mixture: Mixture | None = None,
    ) -> None:
        """Measures distances and weighs rows; no row is fetched.

        Args:
            data_source: anything with ``__len__`` and ``gps`` (N, 2), latitude and longitude in degrees.
            test_gps: (M, 2) latitude, longitude in degrees of the deployment; rows with NaN are dropped.
            n_clusters: K-means clusters of the deployment, or ``auto``.
            weight_brackets: rows of [from_km, to_km, weight]; None for the default of the configuration.
            random_seed: seed of clusters and draws, 0 or more.
            missing_weight: weight of a row without GPS.
            balance_labels: scale the weights inside each bracket so that label 1 keeps its share of all rows.
                ``data_source`` then needs ``labels`` (N,) of 0 and 1; otherwise labels only serve the summary.
            draw: ``systematic``: each row is drawn the floor or ceiling of its expected count; ``iid``: independently.
            rank: rank of this process, 0 to world_size - 1.
            world_size: number of processes.
            mixture: the dataset of each row, if several are mixed with shares or weights.

        Raises:
            ConfigError: an argument that cannot be used; the message names its configuration key.
            DataError: GPS or labels of the wrong shape, no deployment point, or no row with a weight above 0.
        """
        # The settings check their own values, for callers that have no configuration too.
        sampling = GpsSamplingSettings(random_seed=random_seed, missing_weight=missing_weight, draw=draw)
        self._brackets = parse_brackets(sampling.weight_brackets if weight_brackets is None else weight_brackets)
        gps = _check_gps("data_source.gps", data_source.gps)
        if len(gps) != len(data_source):
            raise DataError(f"data_source.gps has {len(gps)} rows, the dataset {len(data_source)}; they must agree.")

        first_edge_km = float(self._brackets.edges_km[1])
        self.clusters = cluster_deployment(_check_gps("test_gps", test_gps), n_clusters, first_edge_km, random_seed)
        self.cluster_centers = self.clusters.centers_deg
        labels = _usable_labels(data_source)
        if balance_labels and labels is None:
            raise DataError(
                "data.gps_sampling.balance_labels needs a dataset with `labels` of 0 or 1, one per row. "
                "Add such labels, or set data.gps_sampling.balance_labels=false."
            )
        self._has_labels = labels is not None
        self.distances_km, self._measured = measure_rows(gps, labels, self.cluster_centers, self._brackets, mixture)
        by_distance = np.append(self._brackets.weights, missing_weight)
        if not (self._measured.by_dataset @ by_distance).any():
            raise nothing_to_draw(f"All {len(gps)} training rows have weight 0, so none can be drawn.")
        factors = mixture.factors(self._measured.by_dataset @ by_distance) if mixture else np.ones(1)
        self._mixture = mixture
        self._bracket_weights = np.outer(factors, by_distance).ravel()
        self._balance_labels = balance_labels
        weights = stratum_weights(self._measured.sizes, self._bracket_weights, balance_labels=balance_labels)
        super().__init__(
            self._measured.index,
            weights.ravel(),
            draw=draw,
            random_seed=random_seed,
            rank=rank,
            world_size=world_size,
        )

    def summary(self) -> SamplerSummary:
        """The effect of the weighting; ``str`` of it is a short text for the log."""
        return summarize(
            self._measured,
            name_brackets(self._brackets.names, self._mixture.names if self._mixture else ("",)),
            self._bracket_weights,
            self.clusters,
            has_labels=self._has_labels,
            balance_labels=self._balance_labels,
        )


def _check_gps(name: str, gps: np.ndarray) -> np.ndarray:
    gps = np.asarray(gps)
    if gps.dtype.kind != "f":
        gps = gps.astype(np.float64)
    if gps.ndim != 2 or gps.shape[1] != 2:
        raise DataError(f"{name} has shape {gps.shape}; it must be (N, 2): latitude, longitude in degrees.")
    # fmin and fmax ignore NaN and allocate no array of N; column by column they are 20 times as fast.
    latitude, longitude = (max(np.fmax.reduce(c, initial=0), -np.fmin.reduce(c, initial=0)) for c in gps.T)
    if latitude > 90 or longitude > 180:
        raise DataError(f"{name} holds positions beyond latitude ±90 or longitude ±180 degrees; latitude comes first.")
    return gps


def _usable_labels(data_source: HasGps) -> np.ndarray | None:
    """(N,) labels if the dataset has them and each is 0 or 1, else None; only balancing needs them."""
    try:
        labels = np.asarray(getattr(data_source, "labels", None))
    except ValueError:  # lists of several labels a row
        return None
    if labels.shape != (len(data_source),) or labels.dtype.kind not in "iub":
        return None
    return labels if labels.min(initial=0) >= 0 and labels.max(initial=0) <= 1 else None
