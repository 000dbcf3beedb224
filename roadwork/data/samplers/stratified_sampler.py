"""Draws rows by the weight of their stratum, one epoch at a time.

Rows of one weight form a class; there is a handful of classes whatever the number of rows, so that both draws cost
little more than a shuffle, and the counts are exact fractions, not sums of millions of floats.
(``torch.multinomial`` refuses over 2^24 rows and is inexact well before.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from torch.utils.data import Sampler

from roadwork.core.errors import ConfigError
from roadwork.settings import DRAW_MODES

_CHUNK_ROWS = 1 << 20

# Row numbers become Python ints this many at a time: ten million at once would take 400 MB.
_ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class WeightClasses:
    """N rows grouped into C classes of equal weight.

    Attributes:
        rows: (N,) row numbers, class after class; uint32, half the memory of int64, where that holds them.
        sizes: (C,) int64 number of rows of each class.
        weights: (C,) float64 weight of each row of the class.
    """

    rows: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_index(cls, index: np.ndarray, weights: np.ndarray) -> "WeightClasses":
        """Classes from each row's class number (N,) and each class's weight (C,)."""
        chunks = range(0, len(index), _CHUNK_ROWS)
        sizes = np.zeros(len(weights), dtype=np.int64)
        for start in chunks:
            sizes += np.bincount(index[start : start + _CHUNK_ROWS], minlength=len(weights))
        # A counting sort: an argsort would need three times the memory.
        rows = np.empty(len(index), dtype=np.uint32 if len(index) <= 1 << 32 else np.int64)
        ends = np.cumsum(sizes) - sizes
        for start in chunks:
            chunk = index[start : start + _CHUNK_ROWS]
            for class_ in range(len(weights)):
                found = np.flatnonzero(chunk == class_) + start
                rows[ends[class_] : ends[class_] + len(found)] = found
                ends[class_] += len(found)
        return cls(rows, sizes, weights)

    def members(self) -> list[np.ndarray]:
        """The row numbers of each class, views of ``rows``."""
        return np.split(self.rows, np.cumsum(self.sizes)[:-1])

    def expected_counts(self) -> list[Fraction]:
        """How often each row of a class is drawn in N draws, on average: N * weight / sum of all rows' weights."""
        weights = [Fraction(float(weight)) for weight in self.weights]
        sizes = [int(size) for size in self.sizes]
        total = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
        return [sum(sizes) * weight / total for weight in weights]


def draw_systematic(classes: WeightClasses, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows in random order, each drawn the floor or the ceiling of its expected count.

    Systematic sampling (Madow, 1949) over a random permutation in which classes stay together: every row is drawn
    the floor of its expected count, and the remaining draws go to a random subset of each class, whose size is again
    the floor or the ceiling of its expectation. Equal weights give a plain permutation.
    """
    start = Fraction(int(rng.integers(1 << 53)), 1 << 53)
    n_extra_before = 0
    cumulative = Fraction(0)
    order = np.empty_like(classes.rows)
    n_drawn = 0
    for members, expected in zip(classes.members(), classes.expected_counts(), strict=True):
        times = int(expected)
        cumulative += len(members) * (expected - times)
        n_extra = int(cumulative + start) - n_extra_before
        n_extra_before += n_extra
        n_repeated = times * len(members)
        order[n_drawn : n_drawn + n_repeated].reshape(times, len(members))[:] = members
        n_drawn += n_repeated
        order[n_drawn : n_drawn + n_extra] = members[rng.choice(len(members), n_extra, replace=False, shuffle=False)]
        n_drawn += n_extra
    rng.shuffle(order)
    return order


def draw_iid(classes: WeightClasses, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows, each an independent draw by weight: first the class, then a row of it uniformly."""
    shares = classes.sizes * classes.weights
    # Classes that cannot be drawn are left out: multinomial gives the last one what rounding leaves over.
    drawable = np.flatnonzero(shares)
    counts = rng.multinomial(len(classes.rows), shares[drawable] / shares.sum())
    members = classes.members()
    order = np.empty_like(classes.rows)
    n_drawn = 0
    for class_, count in zip(drawable, counts, strict=True):
        positions = rng.integers(len(members[class_]), size=count, dtype=order.dtype)
        order[n_drawn : n_drawn + count] = members[class_][positions]
        n_drawn += count
    rng.shuffle(order)
    return order


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
        for start in range(0, len(order), _ROWS_AT_A_TIME):
            for row in order[start : start + _ROWS_AT_A_TIME].tolist():
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
