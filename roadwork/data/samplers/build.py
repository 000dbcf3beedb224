"""Builds the training sampler that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice, product

import numpy as np
from torch.utils.data import DistributedSampler

from roadwork.core.errors import ConfigError
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler, HasGps
from roadwork.data.samplers.stratified_sampler import ClassSampler, check_drawing
from roadwork.data.samplers.weights import Mixture
from roadwork.data.table import SampleTable, column_text, find_slice_column
from roadwork.settings import GpsSamplingSettings

logger = logging.getLogger(__name__)

LABEL = "label"
MAX_GROUPS = 1000


class BalancedSampler(ClassSampler):
    """A ``ClassSampler`` whose classes are groups of rows, each with the same share of the draws.

    Attributes:
        groups: (G,) tuples of each group's values.
        sizes: (G,) int64 number of rows of each group.
    """

    def __init__(
        self,
        values: Sequence[np.ndarray],
        random_seed: int = 42,
        *,
        draw: str = "systematic",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Weighs the groups; the other arguments are those of ``ClassSampler``.

        Args:
            values: one (N,) array of text for each column; rows with the same text in all are a group.
            random_seed: of the draws; 0 is a seed.
            draw: ``systematic`` or ``iid``.
            rank: which share of the order this process takes.
            world_size: number of processes.

        Raises:
            ConfigError: an argument that cannot be used, or more groups than 1000.
        """
        check_drawing(random_seed, draw, rank, world_size)
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
        super().__init__(index, 1 / self.sizes, draw=draw, random_seed=random_seed, rank=rank, world_size=world_size)

    def missing(self) -> list[tuple[str, ...]]:
        """The combinations of values that occur, of which no row does: they cannot be drawn."""
        levels = [sorted(set(column)) for column in zip(*self.groups, strict=True)]
        return [group for group in product(*levels) if group not in set(self.groups)]

    def say(self, columns: Sequence[str]) -> None:
        """Logs what is balanced, how often the rarest rows come, and warns of combinations that are missing."""
        smallest = int(self.sizes.argmin())
        each = self.sizes.sum() / len(self.groups) / self.sizes[smallest]
        logger.info(
            "Balanced draws by %s: %d groups of %d to %d rows; each of the %d rows of %s comes %.1f times an epoch.",
            *(" x ".join(columns), len(self.groups), self.sizes.min(), self.sizes.max()),
            *(self.sizes[smallest], _named(self.groups[smallest]), each),
        )
        if missing := self.missing():
            logger.warning(
                "data.balance: %d combinations have no training row, first %s: what is balanced leaves them out.",
                len(missing),
                _named(missing[0]),
            )


def balanced_values(
    table: SampleTable, rows: np.ndarray, columns: Sequence[str], class_names: dict[str, int]
) -> list[np.ndarray]:
    """For each of `data.balance`, the text of these (n,) rows: the class's name, or the dataset's column.

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


def _named(group: tuple[str, ...]) -> str:
    return ", ".join(value or "(empty)" for value in group)


class MixtureSampler(ClassSampler):
    """A ``ClassSampler`` whose classes are the datasets of a mixture: the rows of one have equal weights."""

    def __init__(
        self,
        mixture: Mixture,
        random_seed: int = 42,
        *,
        draw: str = "systematic",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Weighs the datasets; the arguments are those of ``ClassSampler``.

        Raises:
            ConfigError: An argument that cannot be used.
            DataError: No row can be drawn as the mixture asks for.
        """
        check_drawing(random_seed, draw, rank, world_size)
        sizes = np.bincount(mixture.index, minlength=len(mixture))
        super().__init__(
            mixture.index,
            mixture.factors(sizes.astype(np.float64)),
            draw=draw,
            random_seed=random_seed,
            rank=rank,
            world_size=world_size,
        )


class UniformSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` that can begin in the middle of an epoch."""

    _start = 0

    def start_at(self, position: int) -> None:
        """Begins the next pass, and only that, at this position of this rank's order."""
        self._start = position

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        return islice(super().__iter__(), start, None)


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
