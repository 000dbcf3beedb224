"""How often training would show its photos again, by the weights that the sampler would give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.data.extra import find_mixture
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.samplers.repeats import Repeats
from roadwork.data.table import SampleTable
from roadwork.data.targets import find_deployment
from roadwork.settings import Settings


@dataclass
class _Rows:
    """What the sampler reads of a dataset."""

    gps: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.gps)


def plan_repeats(settings: Settings, table: SampleTable, split_names: np.ndarray) -> Repeats:
    """Of a run with GPS sampling; no image is read.

    Args:
        settings: of the run.
        table: of N rows.
        split_names: (N,) the split of each row.

    Raises:
        DataError: nothing could be drawn.
        ConfigError: a setting of the sampler cannot be used.
    """
    sampling = settings.data.gps_sampling
    rows = np.flatnonzero(split_names == "train")
    points, _ = find_deployment(settings.data, table, split_names)
    sampler = GPSWeightedSampler(
        _Rows(table.gps[rows], table.labels[rows]),
        points,
        n_clusters=sampling.n_clusters,
        weight_brackets=sampling.weight_brackets,
        random_seed=sampling.random_seed,
        missing_weight=sampling.missing_weight,
        balance_labels=sampling.balance_labels,
        mixture=find_mixture(settings.data, table, rows),
    )
    return Repeats.of(sampler, len(rows), settings.training.epochs)
