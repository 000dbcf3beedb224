"""How often training would show its photos again, by the weights that the sampler would give them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.data.extra import find_mixture
from roadwork.data.samplers.build import build_gps_sampler
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
    rows = np.flatnonzero(split_names == "train")
    points, _ = find_deployment(settings.data, table, split_names)
    mixture = find_mixture(settings.data, table, rows)
    measured = _Rows(table.gps[rows], table.labels[rows])
    sampler = build_gps_sampler(settings.data.gps_sampling, measured, points, mixture)
    return Repeats.of(sampler, len(rows), settings.training.epochs)
