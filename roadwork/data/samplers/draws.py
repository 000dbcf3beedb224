"""One epoch's order of rows, drawn by weight.

Rows of one weight form a class; there is a handful of classes whatever the number of rows, so that both draws cost
little more than a shuffle, and the counts are exact fractions, not sums of millions of floats.
(``torch.multinomial`` refuses over 2^24 rows and is inexact well before.)
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class WeightClasses:
    """N rows grouped into C classes of equal weight.

    Attributes:
        rows: (N,) int64 row numbers, class after class.
        sizes: (C,) int64 number of rows of each class.
        weights: (C,) float64 weight of each row of the class.
    """

    rows: np.ndarray
    sizes: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_index(cls, index: np.ndarray, weights: np.ndarray) -> "WeightClasses":
        """Classes from each row's class number (N,) and each class's weight (C,)."""
        # A stable sort of small integers is a radix sort: 20 times faster than of int64.
        rows = np.argsort(index.astype(np.uint16), kind="stable")
        return cls(rows, np.bincount(index, minlength=len(weights)), weights)

    def members(self) -> list[np.ndarray]:
        """The row numbers of each class."""
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
    n_drawn_before = 0
    cumulative = Fraction(0)
    drawn = []
    for members, expected in zip(classes.members(), classes.expected_counts(), strict=True):
        times = int(expected)
        cumulative += len(members) * (expected - times)
        n_extra = int(cumulative + start) - n_drawn_before
        n_drawn_before += n_extra
        drawn.append(np.tile(members, times))
        drawn.append(members[rng.choice(len(members), n_extra, replace=False, shuffle=False)])
    order = np.concatenate(drawn)
    rng.shuffle(order)
    return order


def draw_iid(classes: WeightClasses, rng: np.random.Generator) -> np.ndarray:
    """(N,) rows, each an independent draw by weight: first the class, then a row of it uniformly."""
    shares = classes.sizes * classes.weights
    # Classes that cannot be drawn are left out: multinomial gives the last one what rounding leaves over.
    drawable = np.flatnonzero(shares)
    counts = rng.multinomial(len(classes.rows), shares[drawable] / shares.sum())
    members = classes.members()
    order = np.concatenate(
        [
            members[class_][rng.integers(len(members[class_]), size=count)]
            for class_, count in zip(drawable, counts, strict=True)
        ]
    )
    rng.shuffle(order)
    return order
