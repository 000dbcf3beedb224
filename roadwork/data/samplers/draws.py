"""One epoch's order of rows, drawn by weight.

Rows of one weight form a class; there is a handful of classes whatever the number of rows, so that both draws cost
little more than a shuffle, and the counts are exact fractions, not sums of millions of floats.
(``torch.multinomial`` refuses over 2^24 rows and is inexact well before.)
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

_CHUNK_ROWS = 1 << 20


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
