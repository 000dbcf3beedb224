"""Draws rows by the weight of their stratum, one epoch at a time.

Rows of equal weight form a stratum. There are few strata however many rows, so a draw costs little more than a shuffle,
and expected counts are exact fractions. (``torch.multinomial`` refuses more than 2^24 rows and is inexact before that.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Self

import numpy as np
from torch.utils.data import Sampler

from roadwork.core.errors import ConfigError

_CHUNK_ROWS = 1 << 20

# An epoch's row numbers become Python ints in chunks: ten million at once would take 400 MB.
_YIELD_ROWS = 1 << 16


@dataclass(frozen=True)
class Strata:
    """N rows grouped into C strata of equal weight.

    Attributes:
        rows: (N,) row numbers, stratum after stratum; uint32 for up to 2^32 rows, half the memory of int64.
        sizes: (C,) int64 number of rows in each stratum.
        weights: (C,) float64 weight of each row of the stratum.
    """

    rows: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_index(cls, index: np.ndarray, weights: np.ndarray) -> Strata:
        """Strata from each row's stratum number (N,) and each stratum's weight (C,)."""
        chunks = range(0, len(index), _CHUNK_ROWS)
        sizes = np.zeros(len(weights), dtype=np.int64)
        for start in chunks:
            sizes += np.bincount(index[start : start + _CHUNK_ROWS], minlength=len(weights))
        # A counting sort; argsort would need three times the memory.
        rows = np.empty(len(index), dtype=np.uint32 if len(index) <= 1 << 32 else np.int64)
        ends = np.cumsum(sizes) - sizes
        for start in chunks:
            chunk = index[start : start + _CHUNK_ROWS]
            for stratum in range(len(weights)):
                found = np.flatnonzero(chunk == stratum) + start
                rows[ends[stratum] : ends[stratum] + len(found)] = found
                ends[stratum] += len(found)
        return cls(rows, sizes, weights)

    def members(self) -> list[np.ndarray]:
        """The row numbers of each stratum, views of ``rows``."""
        return np.split(self.rows, np.cumsum(self.sizes)[:-1])

    def expected_counts(self) -> list[Fraction]:
        """(C,) expected draws of each row of a stratum in N draws: N * weight / sum of all rows' weights."""
        weights = [Fraction(float(weight)) for weight in self.weights]
        sizes = [int(size) for size in self.sizes]
        total = sum(size * weight for size, weight in zip(sizes, weights, strict=True))
        return [sum(sizes) * weight / total for weight in weights]


def draw_systematic(strata: Strata, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows in random order, each drawn the floor or the ceiling of its expected count.

    Systematic sampling (Madow, 1949) over a random permutation that keeps strata together. Every row is drawn the floor
    of its expected count. The remaining draws go to a random subset of each stratum, whose size is the floor or the
    ceiling of its expectation. Equal weights give a plain permutation.
    """
    start = Fraction(int(rng.integers(1 << 53)), 1 << 53)
    n_extra_before = 0
    cumulative = Fraction(0)
    order = np.empty_like(strata.rows)
    n_drawn = 0
    for members, expected in zip(strata.members(), strata.expected_counts(), strict=True):
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


def draw_iid(strata: Strata, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows, each an independent draw by weight: first the stratum, then a row of it uniformly."""
    shares = strata.sizes * strata.weights
    # Strata of weight 0 are excluded, because multinomial gives the rounding remainder to the last one.
    drawable = np.flatnonzero(shares)
    counts = rng.multinomial(len(strata.rows), shares[drawable] / shares.sum())
    members = strata.members()
    order = np.empty_like(strata.rows)
    n_drawn = 0
    for stratum, count in zip(drawable, counts, strict=True):
        positions = rng.integers(len(members[stratum]), size=count, dtype=order.dtype)
        order[n_drawn : n_drawn + count] = members[stratum][positions]
        n_drawn += count
    rng.shuffle(order)
    return order


DRAWS = {"systematic": draw_systematic, "iid": draw_iid}


class StratifiedSampler(Sampler[int]):
    """Row numbers of one epoch: N draws from N rows, each row drawn by the weight of its stratum.

    The order of an epoch depends only on ``(random_seed, epoch)``. Rank r takes every ``world_size``-th row of it from
    r on, without padding or repeats. Up to ``world_size - 1`` rows at the end, others in each epoch, are omitted, so
    that all ranks have equally many. Together, the n-th batches of all ranks are the n-th batch that one process would
    have with batches ``world_size`` times as large.

    ``set_epoch`` chooses the epoch of the next pass. Without it, each complete pass advances to the next epoch, and an
    incomplete pass is repeated. ``start_at`` lets the next pass begin inside its epoch.

    Attributes:
        epoch: the epoch that the next pass draws.
    """

    def __init__(
        self,
        index: np.ndarray,
        stratum_weights: np.ndarray,
        *,
        draw: str = "systematic",
        random_seed: int = 42,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Sorts the rows into their strata.

        Args:
            index: (N,) stratum of each row.
            stratum_weights: (C,) weight of each row of a stratum.
            draw: ``systematic``: each row is drawn the floor or ceiling of its expected count; ``iid``: independently.
            random_seed: seed of the draws, 0 or more.
            rank: rank of this process, 0 to world_size - 1.
            world_size: number of processes.

        Raises:
            ConfigError: there is no such rank.
        """
        self._index = index
        self._strata = Strata.from_index(index, stratum_weights)
        self._draw = DRAWS[draw]
        self._random_seed = random_seed
        self._start = 0
        self.epoch = 0
        self.set_rank(rank, world_size)

    def for_rank(self, rank: int, world_size: int) -> Self:
        """The sampler of another process, at epoch 0, with the same rows and weights."""
        sampler = copy.copy(self)
        sampler.set_rank(rank, world_size)
        sampler.set_epoch(0)
        sampler.start_at(0)
        return sampler

    def set_rank(self, rank: int, world_size: int) -> None:
        """Sets the rank of this process, which takes every `world_size`-th row.

        Raises:
            ConfigError: there is no such rank.
        """
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank is {rank} of world_size {world_size}; ranks run from 0 to world_size - 1.")
        self._rank, self._world_size = rank, world_size

    @cached_property
    def weights(self) -> np.ndarray:
        """(N,) float64 weight of each row; computed on first use, because drawing does not need it."""
        weights: np.ndarray = self._strata.weights[self._index]
        return weights

    @property
    def effective_rows(self) -> float:
        """Kish's effective sample size, (sum w)^2 / sum w^2; N if all weights are equal."""
        sums = self._strata.sizes * self._strata.weights
        return float(sums.sum() ** 2 / (sums * self._strata.weights).sum())

    def __len__(self) -> int:
        return len(self._strata.rows) // self._world_size

    def __iter__(self) -> Iterator[int]:
        epoch = self.epoch
        order = self.epoch_order()[self._rank :: self._world_size][self._start : len(self)]
        self._start = 0
        n_left = len(order)
        for start in range(0, len(order), _YIELD_ROWS):
            for row in order[start : start + _YIELD_ROWS].tolist():
                n_left -= 1
                # Before the last row: a consumer that knows the length never asks for another one.
                if n_left == 0 and self.epoch == epoch:
                    self.epoch = epoch + 1
                yield row

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next pass, 0 or more."""
        self.epoch = epoch

    def start_at(self, position: int) -> None:
        """Begins the next pass, and only that one, at this position of this rank's order, as after an interruption."""
        self._start = position

    def epoch_order(self) -> np.ndarray:
        """(N,) rows of ``epoch`` over all ranks, in order; uint32 for up to 2^32 rows. The epoch does not advance."""
        return self._draw(self._strata, np.random.default_rng([self._random_seed, self.epoch]))
