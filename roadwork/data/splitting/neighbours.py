"""The nearest rows across splits."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from roadwork.data.table import SampleTable
from roadwork.data.utils.position_tree import PositionTree
from roadwork.settings import SPLIT_NAMES


class Neighbours:
    """For each row its nearest row in another split, exact, in N log N steps.

    Args:
        table: N rows.
        names: (N,) split of each row, empty for a row in none.

    Attributes:
        km: (N,) distance to the nearest row of another split, infinite where there is none.
        rows: (N,) that row, -1 where there is none.
        closest: the closest two rows of each two splits that have positions.
    """

    def __init__(self, table: SampleTable, names: np.ndarray) -> None:
        self.km = np.full(len(table), np.inf)
        self.rows = np.full(len(table), -1)
        self.closest: list[tuple[int, int]] = []
        placed = {name: np.flatnonzero((names == name) & table.has_gps) for name in SPLIT_NAMES}
        trees = {name: PositionTree(table.gps[rows]) for name, rows in placed.items() if len(rows)}
        for left, right in combinations(trees, 2):
            self._search(table.gps, placed[right], placed[left], trees[left])
            self.closest.append(self._search(table.gps, placed[left], placed[right], trees[right]))

    def _search(
        self, gps: np.ndarray, rows: np.ndarray, others: np.ndarray, tree_of_others: PositionTree
    ) -> tuple[int, int]:
        """Takes in the nearest of the others for each row; returns the closest row and its other."""
        km, index = tree_of_others.nearest(gps[rows])
        nearer = km < self.km[rows]
        self.km[rows[nearer]] = km[nearer]
        self.rows[rows[nearer]] = others[index[nearer]]
        first = km.argmin()
        return int(rows[first]), int(others[index[first]])
