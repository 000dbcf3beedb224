"""Checks splits for consistency, fit to the data, and leaks; runs on every load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roadwork.core.errors import SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.leaks import Leak, Neighbours, RowPair, find_leaks, format_km, row_pair
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES

RATIO_TOLERANCE = 0.01
BALANCE_TOLERANCE = 0.02
RECORD_TOLERANCE = 1e-4
RERUN_HINT = "Run `roadwork split` again."
RANDOM_SPLIT_NOTE = "a RANDOM split, which leaks by design: its metrics are for comparison only."


@dataclass(frozen=True)
class SplitReport:
    """Result of a check of splits.

    Attributes:
        rows, positive_share, groups: number of rows, share of Roadwork and number of groups by split name.
        ratios: target share of the rows by split name; empty for a user's own file.
        set_aside: rows in no split.
        leaks: leaks between splits, one entry per kind.
        closest: the closest pair of rows for each pair of splits with positions.
        buffer_km: rows of different splits that are closer than this leak.
        leak_warnings: warnings about leaks that are not errors.
        train_only: train-only rows of `data.extra` in train; no ratio counts them.
    """

    rows: dict[str, int]
    positive_share: dict[str, float]
    groups: dict[str, int]
    ratios: Mapping[str, float]
    set_aside: int
    leaks: tuple[Leak, ...]
    closest: tuple[RowPair, ...]
    buffer_km: float
    leak_warnings: tuple[str, ...]
    train_only: int = 0

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, the most severe first."""
        return self.leak_warnings + self.share_warnings

    @property
    def share_warnings(self) -> tuple[str, ...]:
        """Warnings about row shares that miss their ratios, and about label shares that differ from the whole."""
        positives = sum(self.positive_share[name] * rows for name, rows in self.rows.items())
        overall = positives / sum(self.rows.values())
        of_rows = (
            f"{name} has {self.shares[name]:.1%} of the rows; the ratio is {ratio:.1%}."
            for name, ratio in self.ratios.items()
            if abs(self.shares[name] - ratio) > RATIO_TOLERANCE
        )
        of_labels = (
            f"{name} has {share:.1%} Roadwork in {self.groups[name]:,} groups, all splits together {overall:.1%}."
            for name, share in self.positive_share.items()
            if abs(share - overall) > BALANCE_TOLERANCE
        )
        return (*of_rows, *of_labels)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the rows by split, without train-only rows."""
        return _shares(self.rows, self.train_only)

    def __str__(self) -> str:
        parts = [
            f"{name} {self.rows[name]:,} ({self.shares[name]:.1%}, {self.positive_share[name]:.0%} Roadwork)"
            for name in SPLIT_NAMES
        ]
        if self.train_only:
            parts.append(f"{self.train_only:,} train-only rows, not counted in the shares")
        if self.set_aside:
            parts.append(f"set aside {self.set_aside:,}")
        if distances_km := [pair.km for pair in self.closest if pair.km is not None]:
            parts.append(f"closest rows of two splits {format_km(min(distances_km))} apart")
        return "; ".join(parts)


def check_splits(splits: Splits, table: SampleTable, groups: Groups) -> SplitReport:
    """Report of `inspect_splits`; leaks are an error in splits made by `roadwork split`, unless random.

    Raises:
        SplitError: the splits are broken or leak; names the rows.
    """
    report = inspect_splits(splits, table, groups)
    if report.leaks and splits.is_ours and not splits.leaks_by_design:
        raise SplitError(f"{splits.source} leaks. {_as_sentences(report.leaks)} {RERUN_HINT}")
    return report


def inspect_splits(splits: Splits, table: SampleTable, groups: Groups) -> SplitReport:
    """Report on splits: sizes, label shares, leaks and closest rows.

    Splits must be disjoint, with both labels in each. Splits made by `roadwork split` must also name every row, and
    match their recorded shares and the data's fingerprint. Leaks are in the report and in its warnings.

    Raises:
        SplitError: the splits are inconsistent, or do not fit the data.
    """
    _check_disjoint(splits)
    names = splits.names_by_row(table)
    rows = {name: int((names == name).sum()) for name in SPLIT_NAMES}
    outside = table.is_train_only
    train_only = int((outside & (names != "")).sum())
    _check_labels(splits, table, names)
    if splits.is_ours:
        _check_made_from(splits, table, rows, train_only)
    buffer_km = groups.buffer_km if splits.buffer_km is None else splits.buffer_km
    neighbours = Neighbours(table, names)
    # A train-only row that was set aside must not link the scenes that it resembles.
    is_gone = outside & (names == "")
    duplicates = groups.duplicates[~is_gone[groups.duplicates].any(axis=1)]
    leaks = find_leaks(table, names, duplicates, neighbours, buffer_km)
    return SplitReport(
        rows,
        positive_share={name: float(table.labels[names == name].mean()) for name in SPLIT_NAMES},
        groups={name: len(set(groups.names[names == name])) for name in SPLIT_NAMES},
        ratios=splits.ratios,
        set_aside=len(table) - sum(rows.values()),
        leaks=leaks,
        closest=tuple(row_pair(table, names, *pair) for pair in neighbours.closest),
        buffer_km=buffer_km,
        leak_warnings=_warn_of_leaks(splits, leaks),
        train_only=train_only,
    )


def _shares(rows: dict[str, int], train_only: int) -> dict[str, float]:
    own = {**rows, "train": rows["train"] - train_only}
    return {name: n / sum(own.values()) for name, n in own.items()}


def _check_disjoint(splits: Splits) -> None:
    counts = Counter(row_id for ids in (*splits.ids.values(), splits.set_aside) for row_id in ids)
    repeated = [row_id for row_id, count in counts.items() if count > 1]
    if repeated:
        lists = {**splits.ids, "set_aside": splits.set_aside}
        where = [name for name, ids in lists.items() if repeated[0] in ids]
        raise SplitError(
            f"{splits.source} has {len(repeated)} rows more than once, first {repeated[0]!r} (in {', '.join(where)}). "
            "Each row belongs to one split; fix the file, or delete it and run `roadwork split`."
        )


def _check_labels(splits: Splits, table: SampleTable, names: np.ndarray) -> None:
    for name in SPLIT_NAMES:
        present = np.unique(table.labels[names == name])
        if len(present) < 2:
            what = f"only label {present[0]}" if len(present) else "no rows"
            raise SplitError(
                f"{splits.source}: {name} has {what}; each split needs both None (0) and Roadwork (1). "
                "Add rows to it, or run `roadwork split`."
            )


def _check_made_from(splits: Splits, table: SampleTable, rows: dict[str, int], train_only: int) -> None:
    if splits.buffer_km is None:
        raise SplitError(f"{splits.source} was made by an older roadwork: run `roadwork split` again.")
    if splits.fingerprint != table.source_fingerprint():
        raise SplitError(
            f"{splits.source} was made from other data: its fingerprint is {splits.fingerprint[:19]}…, this data's is "
            f"{table.source_fingerprint()[:19]}…. Rows, labels, positions or sequences have changed since; "
            "run `roadwork split` for new splits."
        )
    named = sum(rows.values()) + len(splits.set_aside)
    if named != len(table):
        raise SplitError(
            f"{splits.source} names {named:,} rows of {len(table):,}; the others are neither in a split nor set aside. "
            f"{RERUN_HINT}"
        )
    for name, recorded in splits.shares.items():
        share = _shares(rows, train_only)[name]
        if abs(share - recorded) > RECORD_TOLERANCE:
            raise SplitError(
                f"{splits.source}: {name} should have {recorded:.2%} of the rows, but has {share:.2%}. {RERUN_HINT}"
            )


def _as_sentences(leaks: tuple[Leak, ...]) -> str:
    return " ".join(f"{leak}." for leak in leaks)


def _warn_of_leaks(splits: Splits, leaks: tuple[Leak, ...]) -> tuple[str, ...]:
    if splits.leaks_by_design:
        return (f"{splits.source}: {RANDOM_SPLIT_NOTE} {_as_sentences(leaks)}".rstrip(),)
    return tuple(
        f"{splits.source}: {leak}. Scores on such a split are too optimistic; `roadwork split` makes one without leaks."
        for leak in leaks
    )
