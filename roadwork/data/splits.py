"""Four splits with one use each: made from whole groups, and written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from roadwork.data.groups import sequence_groups
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError
from roadwork.runs import write_json
from roadwork.settings import SPLIT_NAMES

VERSION = 1


@dataclass(frozen=True)
class Splits:
    """Which ids belong to which split.

    Attributes:
        ids: split name to ids.
        set_aside: ids in none of them, on purpose.
        strategy, seed, ratios, fingerprint: how and from which data the splits were made; empty for a user's own file.
        source: the file, for messages.
    """

    ids: Mapping[str, list[str]]
    set_aside: list[str] = field(default_factory=list)
    strategy: str = ""
    seed: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    source: str = "the splits"

    @property
    def is_ours(self) -> bool:
        """Made by `roadwork split`, so held to its ratios and its data's fingerprint."""
        return bool(self.fingerprint)

    def names_by_row(self, table: SampleTable) -> np.ndarray:
        """(N,) split name of each row of the table, empty where set aside."""
        by_id = {row_id: name for name, ids in self.ids.items() for row_id in ids}
        return np.array([by_id.get(row_id, "") for row_id in table.ids], dtype=object)

    def write(self, path: Path) -> None:
        """Writes `splits.json` in the version-1 format."""
        write_json(
            path,
            {
                "version": VERSION,
                "strategy": self.strategy,
                "seed": self.seed,
                "ratios": dict(self.ratios),
                "fingerprint": self.fingerprint,
                "splits": {name: list(self.ids[name]) for name in SPLIT_NAMES},
                "set_aside": list(self.set_aside),
            },
        )


def make_splits(table: SampleTable, ratios: Mapping[str, float], seed: int, strategy: str = "sequence") -> Splits:
    """Splits whole groups, stratified by label, whatever the order of the rows.

    Groups are visited from the largest to the smallest, ties in an order drawn from the seed and the group's name. Each
    goes to the split that is furthest below its share. With 8 groups or more of each label, every split ends within
    one largest group of its ratio.

    Raises:
        SplitError: a class is missing, or has too few groups for every split to get one.
    """
    groups = sequence_groups(table)
    names, inverse, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    positives = np.bincount(inverse, weights=table.labels, minlength=len(names))
    group_label = (positives * 2 > sizes).astype(int)
    draws = np.array([hashlib.sha256(f"{seed}|{name}".encode()).hexdigest() for name in names])
    order = np.lexsort((draws, -sizes))
    assigned = np.empty(len(names), dtype=int)
    shares = np.array([ratios[name] for name in SPLIT_NAMES])
    missing = np.zeros(len(SPLIT_NAMES))
    for label in np.argsort([-(group_label == 0).sum(), -(group_label == 1).sum()], kind="stable"):
        members = order[group_label[order] == label]
        if len(members) < len(SPLIT_NAMES):
            raise SplitError(
                f"Label {label} has {len(members)} groups (video sequences, or single rows); each of the "
                f"{len(SPLIT_NAMES)} splits needs at least one of each label. Add data, or check the labels."
            )
        # What the first label's whole groups left over is made up for by the second's.
        missing += shares * sizes[members].sum()
        assigned[members] = _fill(sizes[members], missing)
        missing -= np.bincount(assigned[members], weights=sizes[members], minlength=len(SPLIT_NAMES))
    ids = {name: sorted(table.ids[assigned[inverse] == i].tolist()) for i, name in enumerate(SPLIT_NAMES)}
    return Splits(ids, [], strategy, seed, dict(ratios), table.fingerprint(), "the new splits")


def _fill(sizes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(G,) split index of each group: always the split that lacks most of its `wanted` rows, and none stays empty."""
    missing = wanted.copy()
    empty = set(range(len(wanted)))
    chosen = np.empty(len(sizes), dtype=int)
    for i, size in enumerate(sizes):
        candidates = sorted(empty) if len(sizes) - i <= len(empty) else range(len(wanted))
        chosen[i] = max(candidates, key=missing.__getitem__)
        missing[chosen[i]] -= size
        empty.discard(int(chosen[i]))
    return chosen
