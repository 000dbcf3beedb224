"""Four splits with one use each: made, written, read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
    goes to the split that is furthest below its share of that label.

    Raises:
        SplitError: a class is missing, or has too few groups for every split to get one.
    """
    groups = sequence_groups(table)
    names, inverse, sizes = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    positives = np.bincount(inverse, weights=table.labels, minlength=len(names))
    stratum = (positives * 2 > sizes).astype(int)
    shuffled = np.array([hashlib.sha256(f"{seed}|{name}".encode()).hexdigest() for name in names])
    order = np.lexsort((shuffled, -sizes))
    assigned = np.empty(len(names), dtype=int)
    for label in (0, 1):
        members = order[stratum[order] == label]
        if len(members) < len(SPLIT_NAMES):
            raise SplitError(
                f"Label {label} has {len(members)} groups (video sequences, or single rows); each of the "
                f"{len(SPLIT_NAMES)} splits needs at least one of each label. Add data, or check the labels."
            )
        assigned[members] = _fill(sizes[members], np.array([ratios[s] for s in SPLIT_NAMES]))
    ids = {name: sorted(table.ids[assigned[inverse] == i].tolist()) for i, name in enumerate(SPLIT_NAMES)}
    return Splits(ids, [], strategy, seed, dict(ratios), table.fingerprint(), "the new splits")


def _fill(sizes: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """(G,) split index of each group: always the split that is furthest below its target."""
    wanted = ratios * sizes.sum()
    filled = np.zeros(len(ratios))
    chosen = np.empty(len(sizes), dtype=int)
    for i, size in enumerate(sizes):
        empty = np.flatnonzero(filled == 0)
        few_left = len(sizes) - i <= len(empty)
        candidates = empty if few_left else np.arange(len(ratios))
        chosen[i] = candidates[np.argmax((wanted - filled)[candidates])]
        filled[chosen[i]] += size
    return chosen


def read_splits(path: Path, table: SampleTable) -> Splits:
    """Reads our `splits.json`, or a user's own `{split: [...]}`.

    A user's lists may hold ids, file names, row numbers, or objects with `filename` and `label`.

    Raises:
        SplitError: the file cannot be read, or names rows that the data lacks.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SplitError(f"{path} cannot be read as JSON: {error}. Mend it, or delete it and run `roadwork split`.") from error
    if not isinstance(content, dict):
        raise SplitError(f"{path} holds a {type(content).__name__}; a splits file maps {', '.join(SPLIT_NAMES)} to lists.")
    if "splits" in content and content.get("version") != VERSION:
        raise SplitError(f"{path} has version {content.get('version')!r}; this roadwork reads version {VERSION}. Run `roadwork split` again.")
    lists = content.get("splits", content)
    if set(lists) != set(SPLIT_NAMES) or not all(isinstance(rows, list) for rows in lists.values()):
        raise SplitError(f"{path} names the splits {', '.join(lists)}; it must map exactly {', '.join(SPLIT_NAMES)} to lists.")
    reader = _RowReader(path, table)
    ids = {name: [reader.row_id(entry, name) for entry in lists[name]] for name in SPLIT_NAMES}
    if "splits" not in content:
        named = {row_id for rows in ids.values() for row_id in rows}
        reader.raise_unknown()
        return Splits(ids, [i for i in table.ids if i not in named], source=str(path))
    set_aside = [reader.row_id(entry, "set_aside") for entry in content.get("set_aside", [])]
    reader.raise_unknown()
    return Splits(
        ids, set_aside, content["strategy"], content["seed"], content["ratios"], content["fingerprint"], str(path)
    )


class _RowReader:
    """Turns an entry of a splits file into a row's id, and gathers the entries that the data lacks."""

    def __init__(self, path: Path, table: SampleTable) -> None:
        self.path = path
        self.table = table
        self.rows_by_id = {str(row_id): row for row, row_id in enumerate(table.ids)}
        self.rows_by_name: dict[str, list[int]] = {}
        for row, name in enumerate(table.filenames):
            self.rows_by_name.setdefault(str(name), []).append(row)
            if (base := Path(str(name)).name) != name:
                self.rows_by_name.setdefault(base, []).append(row)
        self.unknown: list[str] = []

    def row_id(self, entry: Any, split: str) -> str:
        row = self._row(entry.get("filename") if isinstance(entry, dict) else entry)
        if row is None:
            self.unknown.append(f"{split}: {entry!r}")
            return ""
        if isinstance(entry, dict) and "label" in entry and entry["label"] != self.table.labels[row]:
            raise SplitError(
                f"{self.path}: {split} has {entry}, but the data's label of {self.table.filenames[row]} is {self.table.labels[row]}. "
                "Labels are read from the data; mend one of the two."
            )
        return str(self.table.ids[row])

    def _row(self, entry: Any) -> int | None:
        if isinstance(entry, bool) or not isinstance(entry, (int, str)):
            return None
        if isinstance(entry, int):
            return entry if 0 <= entry < len(self.table) else None
        if entry in self.rows_by_id:
            return self.rows_by_id[entry]
        rows = self.rows_by_name.get(entry, [])
        return rows[0] if len(rows) == 1 else None

    def raise_unknown(self) -> None:
        if self.unknown:
            raise SplitError(
                f"{self.path} names {len(self.unknown)} rows that are not in the data, or not once: {'; '.join(self.unknown[:5])}. "
                f"Allowed: ids (such as {self.table.ids[0]!r}), file names, or row numbers below {len(self.table)}."
            )
