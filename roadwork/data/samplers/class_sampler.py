"""Draws rows by the weight of their class, an epoch at a time."""

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from torch.utils.data import Sampler

from roadwork.data.samplers.draws import WeightClasses, draw_iid, draw_systematic
from roadwork.errors import ConfigError
from roadwork.settings import DRAW_MODES

# Row numbers become Python ints this many at a time: ten million at once would take 400 MB.
_CHUNK_ROWS = 1 << 16


class ClassSampler(Sampler[int]):
    """Row numbers of one epoch, N draws for N rows, each class of rows with its weight.

    An epoch's order depends on nothing but ``(random_seed, epoch)``; of it, rank r takes every ``world_size``-th
    row from r on, without padding or repeats. Up to ``world_size - 1`` rows at its end, others in each epoch, are left
    out, so that all ranks have as many; their n-th batches are together the n-th batch that one process would have
    with batches ``world_size`` times as large.

    ``set_epoch`` chooses the epoch of the next pass. Where nobody calls it, each complete pass moves on to the next
    epoch by itself; a pass that is broken off is repeated. ``start_at`` lets the next pass begin inside its epoch.

    Attributes:
        epoch: the epoch that the next pass draws.
    """

    def __init__(
        self,
        index: np.ndarray,
        class_weights: np.ndarray,
        *,
        draw: str,
        random_seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        """Sorts the rows into their classes.

        Args:
            index: (N,) class of each row.
            class_weights: (C,) weight of each row of a class.
            draw: ``systematic``: each row is drawn the floor or ceiling of its expected count; ``iid``: independently.
            random_seed: of the draws; 0 is a seed.
            rank: which share of the order this process takes, 0 to world_size - 1.
            world_size: number of processes.
        """
        self._index = index
        self._classes = WeightClasses.from_index(index, class_weights)
        self._draw = draw_systematic if draw == "systematic" else draw_iid
        self._random_seed = random_seed
        self._rank = rank
        self._world_size = world_size
        self._start = 0
        self.epoch = 0

    @cached_property
    def weights(self) -> np.ndarray:
        """(N,) float64 weight of each row; made when first asked for, as drawing needs no such array."""
        weights: np.ndarray = self._classes.weights[self._index]
        return weights

    @property
    def effective_rows(self) -> float:
        """Kish's effective sample size, (sum w)^2 / sum w^2; N where all weights are equal."""
        sums = self._classes.sizes * self._classes.weights
        return float(sums.sum() ** 2 / (sums * self._classes.weights).sum())

    def __len__(self) -> int:
        return len(self._classes.rows) // self._world_size

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        order = self.epoch_order()[self._rank :: self._world_size][self._start : len(self)]
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


def check_drawing(random_seed: int, draw: str, rank: int, world_size: int) -> None:
    """Whether draws can be made so.

    Raises:
        ConfigError: An argument that cannot be used; the message names its configuration key.
    """
    if random_seed < 0:
        raise ConfigError(f"data.gps_sampling.random_seed is {random_seed}; it must be a whole number >= 0.")
    if draw not in DRAW_MODES:
        raise ConfigError(f"data.gps_sampling.draw is {draw!r}; allowed: {', '.join(DRAW_MODES)}.")
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank is {rank} of world_size {world_size}; ranks run from 0 to world_size - 1.")
