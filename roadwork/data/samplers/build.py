"""The GPS-weighted sampler that a run's settings name, for training and for what is said before it."""

from __future__ import annotations

import numpy as np

from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler, HasGps
from roadwork.data.samplers.mixture import Mixture
from roadwork.settings import GpsSamplingSettings


def build_gps_sampler(
    sampling: GpsSamplingSettings,
    rows: HasGps,
    deployment: np.ndarray,
    mixture: Mixture | None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> GPSWeightedSampler:
    """The sampler of training rows.

    Args:
        sampling: `data.gps_sampling`.
        rows: the training rows, with `gps` and, where there are some, `labels`.
        deployment: (M, 2) latitude, longitude in degrees.
        mixture: the datasets that the rows are of.
        rank: which share of the order this process takes.
        world_size: number of processes.

    Raises:
        ConfigError, DataError: see `GPSWeightedSampler`.
    """
    return GPSWeightedSampler(
        rows,
        deployment,
        n_clusters=sampling.n_clusters,
        weight_brackets=sampling.weight_brackets,
        random_seed=sampling.random_seed,
        missing_weight=sampling.missing_weight,
        balance_labels=sampling.balance_labels,
        draw=sampling.draw,
        rank=rank,
        world_size=world_size,
        mixture=mixture,
    )
