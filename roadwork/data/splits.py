"""Four splits with one use each: made, and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from roadwork.data.groups import Groups, pairs_within
from roadwork.data.splitting.strategies import SET_ASIDE, assign_rows
from roadwork.data.table import SampleTable
from roadwork.runs import write_json
from roadwork.settings import SPLIT_NAMES, SplittingSettings

VERSION = 1


@dataclass(frozen=True)
class Splits:
    """Which ids belong to which split.

    Attributes:
        ids: split name to ids.
        set_aside: ids in none of them, on purpose.
        strategy, seed, ratios, fingerprint: how and from which data the splits were made; empty for a user's own file.
        source: the file, for messages.
        buffer_km: the buffer of the groups they were made from; None where that is unknown.
        shares: the splits' real shares of their rows, which whole groups and pins keep from the ratios.
    """

    ids: Mapping[str, list[str]]
    set_aside: list[str] = field(default_factory=list)
    strategy: str = ""
    seed: int | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    source: str = "the splits"
    buffer_km: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Made by `roadwork split`, so held to its ratios and its data's fingerprint."""
        return bool(self.fingerprint)

    @property
    def leaks_by_design(self) -> bool:
        """Made row by row, for comparison only: neighbours are on both sides, and every figure from it is too good."""
        return self.strategy == "random"

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
                "buffer_km": self.buffer_km,
                "shares": dict(self.shares),
            },
        )


def make_splits(
    table: SampleTable, groups: Groups, ratios: Mapping[str, float], splitting: SplittingSettings
) -> Splits:
    """Splits the table by `splitting.strategy`, but for its train-only rows; the same splits whatever the row order.

    Ratios are of the rows that are not set aside. They are met within a point, and each split's share of Roadwork
    within two points of the whole, as far as whole groups, pins and the strategy allow; `shares` says what was reached.

    Raises:
        SplitError: the data cannot be split as asked.
    """
    table, groups = split_rows(table, groups)
    assigned = assign_rows(table, groups, ratios, splitting)
    ids = {name: sorted(table.ids[assigned == i].tolist()) for i, name in enumerate(SPLIT_NAMES)}
    total = sum(map(len, ids.values()))
    return Splits(
        ids,
        set_aside=sorted(table.ids[assigned == SET_ASIDE].tolist()),
        strategy=splitting.strategy,
        seed=splitting.seed,
        ratios=dict(ratios),
        fingerprint=table.source_fingerprint(),
        source="the new splits",
        buffer_km=groups.buffer_km,
        shares={name: len(rows) / total for name, rows in ids.items()},
    )


def split_rows(table: SampleTable, groups: Groups) -> tuple[SampleTable, Groups]:
    """The rows that splits are made for, which are not train-only, and their groups."""
    inside = ~table.is_train_only
    if inside.all():
        return table, groups
    return table.take(inside), replace(
        groups,
        names=groups.names[inside],
        set_aside=groups.set_aside[inside],
        duplicates=pairs_within(groups.duplicates, inside),
    )
