"""Builds the training sampler that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from typing import Protocol

import numpy as np
from torch.utils.data import DistributedSampler

from roadwork.core.errors import ConfigError
from roadwork.data.deployment import unreachable_targets
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler, HasGps
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.weights import Mixture
from roadwork.data.table import SampleTable, column_text, find_slice_column
from roadwork.settings import DataSettings, GpsSamplingSettings

logger = logging.getLogger(__name__)

LABEL = "label"
MAX_GROUPS = 1000


class TrainingRows(HasGps, Protocol):
    """A dataset that also has the numbers of its rows in the table."""

    rows: np.ndarray  # (n,) int64


def build_train_sampler(
    data: DataSettings,
    table: SampleTable,
    dataset: TrainingRows,
    mixture: Mixture | None,
    locate_deployment: Callable[[], tuple[np.ndarray, str]],
) -> StratifiedSampler | UniformSampler:
    """The sampler of a single process; its `for_rank` gives that of each process. Logs the effect of the weighting.

    It balances groups (`data.balance`), weights by distance to the deployment (`data.gps_sampling`), draws mixed
    datasets by their shares (`data.extra`), or draws uniformly: the first of these that the settings ask for.

    Args:
        data: the settings.
        table: the metadata of all rows.
        dataset: the training rows.
        mixture: the dataset of each training row, if several are mixed with shares or weights.
        locate_deployment: returns (M, 2) latitude, longitude in degrees, and their origin in words. It is called for
            GPS sampling only.

    Raises:
        ConfigError: a setting that does not fit the data.
        DataError: no row can be drawn as the settings ask.
    """
    sampling = data.gps_sampling
    if data.balance:
        values = balanced_values(table, dataset.rows, data.balance, data.class_names)
        balanced = BalancedSampler(values, sampling.random_seed, draw=sampling.draw)
        balanced.log_summary(data.balance)
        return balanced
    if sampling.enabled:
        points, origin = locate_deployment()
        weighted = build_gps_sampler(sampling, dataset, points, mixture)
        logger.info("GPS sampling aims at %s.\n%s", origin, weighted.summary())
        if warning := unreachable_targets(points, dataset.gps):
            logger.warning(warning)
        return weighted
    if mixture is not None:
        return MixtureSampler(mixture, sampling.random_seed, draw=sampling.draw)
    return UniformSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=sampling.random_seed, drop_last=True)  # type: ignore[arg-type]  # it only takes its length


def build_gps_sampler(
    sampling: GpsSamplingSettings, rows: HasGps, deployment: np.ndarray, mixture: Mixture | None = None
) -> GPSWeightedSampler:
    """The GPS-weighted sampler of a single process.

    Args:
        sampling: `data.gps_sampling`.
        rows: the training rows, with `gps` and, if known, `labels`.
        deployment: (M, 2) latitude, longitude in degrees.
        mixture: the dataset of each row.

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
        mixture=mixture,
    )


class BalancedSampler(StratifiedSampler):
    """Draws groups of rows equally often.

    Attributes:
        groups: (G,) tuples of each group's values.
        sizes: (G,) int64 number of rows in each group.
    """

    def __init__(self, values: Sequence[np.ndarray], random_seed: int = 42, *, draw: str = "systematic") -> None:
        """Sorts the rows into groups.

        Args:
            values: one (N,) array of text for each column; rows with equal text in all columns form a group.
            random_seed: seed of the draws, 0 or more.
            draw: ``systematic`` or ``iid``.

        Raises:
            ConfigError: there are more than 1000 groups.
        """
        rows = list(zip(*values, strict=True))
        self.groups = sorted(set(rows))
        if len(self.groups) > MAX_GROUPS:
            raise ConfigError(
                f"data.balance makes {len(self.groups):,} groups of {len(rows):,} training rows; at most "
                f"{MAX_GROUPS:,} can be balanced. Name columns with fewer values."
            )
        number = {group: place for place, group in enumerate(self.groups)}
        index = np.array([number[row] for row in rows], dtype=np.uint16)
        self.sizes = np.bincount(index, minlength=len(self.groups))
        super().__init__(index, 1 / self.sizes, draw=draw, random_seed=random_seed)

    def missing(self) -> list[tuple[str, ...]]:
        """The combinations of the columns' values that no row has; they cannot be drawn."""
        levels = [sorted(set(column)) for column in zip(*self.groups, strict=True)]
        return [group for group in product(*levels) if group not in set(self.groups)]

    def log_summary(self, columns: Sequence[str]) -> None:
        """Logs the groups and how often the smallest is drawn; warns of missing combinations."""
        smallest = int(self.sizes.argmin())
        draws = self.sizes.sum() / len(self.groups) / self.sizes[smallest]
        logger.info(
            "Balanced draws by %s: %d groups of %d to %d rows; the %d rows of %s are drawn %.1f times an epoch.",
            *(" x ".join(columns), len(self.groups), self.sizes.min(), self.sizes.max()),
            *(self.sizes[smallest], _group_name(self.groups[smallest]), draws),
        )
        if missing := self.missing():
            logger.warning(
                "data.balance: %d combinations have no training row and cannot be balanced, first %s.",
                len(missing),
                _group_name(missing[0]),
            )


def balanced_values(
    table: SampleTable, rows: np.ndarray, columns: Sequence[str], class_names: dict[str, int]
) -> list[np.ndarray]:
    """The text of these (n,) rows in each column of `data.balance`: the class's name, or the dataset's value.

    Raises:
        ConfigError: the dataset has no such column.
    """
    names = {number: name for name, number in class_names.items()}
    return [
        np.array([names[label] for label in table.labels[rows].tolist()], dtype=object)
        if column == LABEL
        else column_text(find_slice_column(table, "data.balance", column).iloc[rows])
        for column in columns
    ]


def _group_name(group: tuple[str, ...]) -> str:
    return ", ".join(value or "(empty)" for value in group)


class MixtureSampler(StratifiedSampler):
    """Draws each dataset of a mixture by its share or weight, and its rows uniformly."""

    def __init__(self, mixture: Mixture, random_seed: int = 42, *, draw: str = "systematic") -> None:
        """Weights the datasets.

        Raises:
            DataError: no row can be drawn as the mixture asks.
        """
        sizes = np.bincount(mixture.index, minlength=len(mixture))
        weights = mixture.factors(sizes.astype(np.float64))
        super().__init__(mixture.index, weights, draw=draw, random_seed=random_seed)


class UniformSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` that can begin in the middle of an epoch."""

    _start = 0

    def for_rank(self, rank: int, world_size: int) -> UniformSampler:
        """The sampler of another process, at epoch 0, over the same rows."""
        return UniformSampler(
            self.dataset, world_size, rank, shuffle=self.shuffle, seed=self.seed, drop_last=self.drop_last
        )

    def start_at(self, position: int) -> None:
        """Begins the next pass, and only that one, at this position of this rank's order."""
        self._start = position

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        return islice(super().__iter__(), start, None)
