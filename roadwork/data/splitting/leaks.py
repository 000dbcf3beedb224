"""Finds leaks between splits: shared sequences, near-duplicates, and rows that are too close."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from roadwork.data.grouping.proximity import component_labels
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import PositionTree, haversine_km
from roadwork.settings import SPLIT_NAMES

MAX_EXAMPLES = 5


class Neighbours:
    """The exact nearest row in another split for each row, in O(N log N).

    Args:
        table: N rows.
        names: (N,) split of each row, empty for a row in no split.

    Attributes:
        km: (N,) distance to that row, infinite if there is none.
        rows: (N,) index of that row, -1 if there is none.
        closest: the closest pair of rows for each pair of splits with positions.
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
        """Updates each row's nearest row with the others; returns the closest pair."""
        km, index = tree_of_others.nearest(gps[rows])
        nearer = km < self.km[rows]
        self.km[rows[nearer]] = km[nearer]
        self.rows[rows[nearer]] = others[index[nearer]]
        first = km.argmin()
        return int(rows[first]), int(others[index[first]])


@dataclass(frozen=True)
class RowPair:
    """Two rows of different splits.

    Attributes:
        sequence: the sequence of both rows, empty if they differ.
        km: distance; None if a position is unknown.
    """

    filenames: tuple[str, str]
    splits: tuple[str, str]
    sequence: str
    km: float | None

    def __str__(self) -> str:
        apart = "distance unknown" if self.km is None else f"{format_km(self.km)} apart"
        both = " and ".join(f"{name} ({split})" for name, split in zip(self.filenames, self.splits, strict=True))
        return f"{both}, {apart}" + (f", of sequence {self.sequence}" if self.sequence else "")


@dataclass(frozen=True)
class Leak:
    """Leaks of one kind.

    Attributes:
        kind: `sequence`, `near_duplicate` or `distance`.
        what: description of what is counted.
        count: sequences or scenes in several splits, or rows too close to another split.
        examples: up to five pairs.
    """

    kind: str
    what: str
    count: int
    examples: tuple[RowPair, ...]

    def __str__(self) -> str:
        return f"{self.what}: {self.count:,}, such as {self.examples[0]}"


def format_km(km: float) -> str:
    """A distance for readers: `300 m`, `1.4 km`."""
    return f"{km * 1000:,.0f} m" if km < 0.9995 else f"{km:,.1f} km"


def find_leaks(
    table: SampleTable, names: np.ndarray, duplicates: np.ndarray, neighbours: Neighbours, buffer_km: float
) -> tuple[Leak, ...]:
    """All leaks, one entry per kind.

    Args:
        table: N rows.
        names: (N,) split of each row, empty for a row in no split.
        duplicates: (P, 2) row pairs that show the same scene.
        neighbours: nearest rows across these splits.
        buffer_km: rows of different splits that are closer than this leak.
    """
    leaks = []
    sequences = _cut(table.sequence_ids, np.flatnonzero((table.sequence_ids != "") & (names != "")), names)
    if len(sequences):
        examples = _examples(table, names, sequences)
        leaks.append(Leak("sequence", "Sequences in more than one split", len(sequences), examples))
    # Counts scenes, not pairs: `duplicates` need not hold every pair of a large set of equal images.
    scene_of_row, alike = component_labels(len(table), duplicates), np.unique(duplicates)
    scenes = _cut(scene_of_row, alike[names[alike] != ""], names)
    if len(scenes):
        across = duplicates[_are_across(names, duplicates)]
        examples = _examples(table, names, across if len(across) else scenes)
        what = "Scenes with near-duplicate images in more than one split"
        leaks.append(Leak("near_duplicate", what, len(scenes), examples))
    rows = np.flatnonzero(neighbours.km < buffer_km)
    if len(rows):
        pairs = np.stack([rows, neighbours.rows[rows]], axis=1)
        # Frames of a sequence and images of a scene are the closest of all, and already reported above.
        named = _alike(table.sequence_ids, pairs) & (table.sequence_ids[rows] != "") | _alike(scene_of_row, pairs)
        by_place_only = pairs[~named]
        examples = _examples(table, names, by_place_only if len(by_place_only) else pairs)
        leaks.append(Leak("distance", f"Rows closer than {format_km(buffer_km)} to another split", len(rows), examples))
    return tuple(leaks)


def row_pair(table: SampleTable, names: np.ndarray, first: int, second: int) -> RowPair:
    """File names, splits, common sequence and distance of two rows."""
    rows = [first, second]
    sequences = table.sequence_ids[rows]
    km = float(haversine_km(*table.gps[rows]))
    return RowPair(
        filenames=(str(table.filenames[first]), str(table.filenames[second])),
        splits=(str(names[first]), str(names[second])),
        sequence=str(sequences[0]) if sequences[0] == sequences[1] else "",
        km=None if np.isnan(km) else km,
    )


def _cut(labels: np.ndarray, rows: np.ndarray, names: np.ndarray) -> np.ndarray:
    """(S, 2) one pair of rows in different splits for each label that occurs in several splits."""
    seen: dict[Any, int] = {}
    cut: dict[Any, tuple[int, int]] = {}
    for row in rows.tolist():
        label = labels[row]
        earlier = seen.setdefault(label, row)
        if names[row] != names[earlier]:
            cut.setdefault(label, (earlier, row))
    return np.array(list(cut.values()), dtype=np.int64).reshape(-1, 2)


def _are_across(names: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) bool, whether the rows of a pair are in different splits."""
    across: np.ndarray = ~_alike(names, pairs) & (names[pairs] != "").all(axis=1)
    return across


def _alike(labels: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) bool, whether the rows of a pair have the same label."""
    left, right = labels[pairs.T]
    alike: np.ndarray = left == right
    return alike


def _examples(table: SampleTable, names: np.ndarray, pairs: np.ndarray) -> tuple[RowPair, ...]:
    """The closest pairs, without mirrored repeats; pairs of unknown distance come last."""
    _, once = np.unique(pairs.min(axis=1) * len(table) + pairs.max(axis=1), return_index=True)
    pairs = pairs[once]
    nearest_first = np.argsort(haversine_km(*table.gps[pairs.T]), kind="stable")[:MAX_EXAMPLES]
    return tuple(row_pair(table, names, first, second) for first, second in pairs[nearest_first].tolist())
