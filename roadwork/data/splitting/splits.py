"""Makes the four splits from groups, and reads and writes splits.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from roadwork.core.errors import SplitError
from roadwork.core.files import write_json
from roadwork.data.columns import label_of
from roadwork.data.grouping.groups import Groups, pairs_within
from roadwork.data.splitting.strategies import SET_ASIDE, assign_rows
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES, SplittingSettings

VERSION = 1


@dataclass(frozen=True)
class Splits:
    """The ids of each split.

    Attributes:
        ids: ids by split name.
        set_aside: ids deliberately kept out of all splits.
        strategy, seed, ratios, fingerprint: how and from what data the splits were made; empty for a user's own file.
        source: name of the file in messages.
        buffer_km: buffer of the groups; None if unknown.
        shares: actual share of the rows by split; whole groups and pins make it differ from the ratios.
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
        """Whether `roadwork split` made them, so that ratios and the data's fingerprint are checked."""
        return bool(self.fingerprint)

    @property
    def leaks_by_design(self) -> bool:
        """Whether rows were split at random: neighbours are in different splits, and metrics are too optimistic."""
        return self.strategy == "random"

    def names_by_row(self, table: SampleTable) -> np.ndarray:
        """(N,) split name of each row of the table, empty for rows in no split."""
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
    """The splits of all but the train-only rows by `splitting.strategy`; independent of the row order.

    Ratios refer to the rows that are not set aside. They are met within one percentage point, and each split's share
    of Roadwork within two points of the whole, as far as whole groups, pins and the strategy allow. `shares` has the
    result.

    Raises:
        SplitError: the data cannot be split this way.
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
    """The table and groups without train-only rows."""
    inside = ~table.is_train_only
    if inside.all():
        return table, groups
    return table.take(inside), replace(
        groups,
        names=groups.names[inside],
        set_aside=groups.set_aside[inside],
        duplicates=pairs_within(groups.duplicates, inside),
    )


def read_splits(path: Path, table: SampleTable, class_names: Mapping[str, int] | None = None) -> Splits:
    """The splits in a `splits.json` of `roadwork split`, or in a user's own `{split: [...]}`.

    A user's lists may hold ids, file names, row numbers, or objects with `filename` and `label`.

    Args:
        path: the file.
        table: the dataset.
        class_names: allowed names of the labels in such objects.

    Raises:
        SplitError: the file cannot be read, names unknown rows, or contradicts the data's labels.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SplitError(
            f"{path} cannot be read as JSON: {error}. Fix it, or delete it and run `roadwork split`."
        ) from error
    lists = _lists_of(content, path)
    reader = _RowReader(path, table, class_names or {})
    ids = {name: [reader.row_id(entry, name) for entry in lists[name]] for name in SPLIT_NAMES}
    if lists is content:
        set_aside = sorted(set(table.ids[~table.is_train_only]) - {row_id for rows in ids.values() for row_id in rows})
    else:
        set_aside = [reader.row_id(entry, "set_aside") for entry in content.get("set_aside", [])]
    reader.raise_unknown()
    dropped = table.dropped_ids
    return Splits(
        {name: [row_id for row_id in rows if row_id not in dropped] for name, rows in ids.items()},
        sorted({*set_aside, *dropped}) if dropped else set_aside,
        strategy=content.get("strategy", ""),
        seed=content.get("seed"),
        ratios=content.get("ratios", {}),
        fingerprint=content.get("fingerprint", ""),
        source=str(path),
        buffer_km=content.get("buffer_km"),
        shares={} if dropped else content.get("shares", {}),  # refers to rows that have since been dropped
    )


def _lists_of(content: Any, path: Path) -> dict[str, list[Any]]:
    """The entries by split name; `content` itself if it has the user's own form."""
    remedy = f"Needed: {', '.join(SPLIT_NAMES)}, each with a list. Fix it, or delete it and run `roadwork split`."
    if not isinstance(content, dict):
        raise SplitError(f"{path} holds a {type(content).__name__}, not an object. {remedy}")
    if "splits" in content and content.get("version") != VERSION:
        raise SplitError(
            f"{path} has version {content.get('version')!r}; this roadwork reads version {VERSION}. "
            "Run `roadwork split` again."
        )
    lists = content.get("splits", content)
    if not isinstance(lists, dict) or set(lists) != set(SPLIT_NAMES):
        raise SplitError(f"{path} names the splits {', '.join(map(str, lists)) or 'nothing'}. {remedy}")
    no_list = [name for name, rows in lists.items() if not isinstance(rows, list)]
    if no_list:
        raise SplitError(f"{path} has no list for {', '.join(no_list)}. {remedy}")
    if lists is not content:
        _check_header(content, path)
    return lists


def _check_header(content: dict[str, Any], path: Path) -> None:
    """Checks the types of the header fields of a file from `roadwork split`."""
    for key, default, is_good, wanted in (
        ("strategy", "", lambda value: isinstance(value, str), "text"),
        ("seed", None, lambda value: value is None or isinstance(value, int), "a whole number"),
        ("ratios", {}, _is_shares, "an object of split names and numbers"),
        ("fingerprint", "", lambda value: isinstance(value, str), "text"),
        ("set_aside", [], lambda value: isinstance(value, list), "a list of ids"),
        ("buffer_km", None, lambda value: value is None or _is_share(value), "kilometres, 0 or more"),
        ("shares", {}, _is_shares, "an object of split names and numbers"),
    ):
        value = content.get(key, default)
        if not is_good(value):
            raise SplitError(
                f"{path}: {key} is {value!r}. Allowed: {wanted}, as `roadwork split` writes it. "
                "Fix it, or run `roadwork split` again."
            )


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def _is_shares(value: object) -> bool:
    return isinstance(value, dict) and all(name in SPLIT_NAMES and _is_share(share) for name, share in value.items())


class _RowReader:
    """Maps entries of a splits file to row ids, and collects the entries that match no row."""

    def __init__(self, path: Path, table: SampleTable, class_names: Mapping[str, int]) -> None:
        self.path = path
        self.table = table
        self.class_names = class_names
        self.rows_by_id = {str(row_id): row for row, row_id in enumerate(table.ids)}
        self.rows_by_name: dict[str, list[int]] = {}
        is_extra = table.is_extra
        for row, name in enumerate(table.filenames):
            # A generated image often shares its photo's base name, so a base name refers to the main dataset only.
            for known in {name} if is_extra[row] else {name, _base_name(name)}:
                self.rows_by_name.setdefault(known, []).append(row)
        self.unknown: list[str] = []

    def row_id(self, entry: Any, split: str) -> str:
        row = self._row(entry.get("filename") if isinstance(entry, dict) else entry)
        if row is None:
            self.unknown.append(f"{split}: {entry!r}")
            return ""
        if isinstance(entry, dict) and "label" in entry:
            self._check_label(entry, row, split)
        return str(self.table.ids[row])

    def _row(self, entry: Any) -> int | None:
        if isinstance(entry, bool) or not isinstance(entry, (int, str)):
            return None
        if str(entry) in self.rows_by_id:  # also for numbers, as ids may be numbers
            return self.rows_by_id[str(entry)]
        if isinstance(entry, int):
            return entry if 0 <= entry < len(self.table) else None
        rows = self.rows_by_name.get(entry) or self.rows_by_name.get(_base_name(entry), [])
        return rows[0] if len(rows) == 1 else None

    def _check_label(self, entry: dict[str, Any], row: int, split: str) -> None:
        label = label_of(entry["label"], self.class_names)
        if label != self.table.labels[row]:
            raise SplitError(
                f"{self.path}: {split} has {entry}, but the label of {self.table.filenames[row]} in the data is "
                f"{self.table.labels[row]}. Allowed: that label, a name of data.class_names for it, or none. "
                "Fix the splits file or the data."
            )

    def raise_unknown(self) -> None:
        if self.unknown:
            raise SplitError(
                f"{self.path} names {len(self.unknown)} rows that are missing or ambiguous in the data, first: "
                f"{'; '.join(self.unknown[:5])}. Allowed: ids (such as {self.table.ids[0]!r}), file names, or row "
                f"numbers below {len(self.table)}. If the data has changed, run `roadwork split` for new splits."
            )


def _base_name(name: str) -> str:
    return name.rpartition("/")[2]
