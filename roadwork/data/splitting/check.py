"""Whether splits are what they say, fit the data, and leak nothing; run on every load."""

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
RANDOM_SPLIT_NOTE = "a RANDOM split, which leaks by design: its figures are for comparison only."


@dataclass(frozen=True)
class SplitReport:
    """What the check of splits found.

    Attributes:
        rows, positive_share, groups: split name to its rows, its share of Roadwork, and its groups.
        ratios: split name to the share of rows that it was meant to have; empty for a user's own file.
        set_aside: rows in no split.
        leaks: what lies on both sides of a split, one entry a kind.
        closest: the closest rows of each two splits that have positions.
        buffer_km: rows of different splits that are closer leak.
        leak_warnings: what its user must know of them, where they stop nothing.
        train_only: rows of train that are only trained on (`data.extra`), and that no ratio counts.
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
        """What is worth knowing, but stops nothing; the gravest first."""
        return self.leak_warnings + self.share_warnings

    @property
    def share_warnings(self) -> tuple[str, ...]:
        """Shares of the rows that miss their ratios, and of Roadwork that miss the whole's."""
        positives = sum(self.positive_share[name] * rows for name, rows in self.rows.items())
        overall = positives / sum(self.rows.values())
        of_rows = (
            f"{name} has {self.shares[name]:.1%} of the rows; {ratio:.1%} were asked for."
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
        """Share of each split in the rows of all four, train-only rows left out."""
        return _shares(self.rows, self.train_only)

    def __str__(self) -> str:
        parts = [
            f"{name} {self.rows[name]:,} ({self.shares[name]:.1%}, {self.positive_share[name]:.0%} Roadwork)"
            for name in SPLIT_NAMES
        ]
        if self.train_only:
            parts.append(f"{self.train_only:,} rows of train are only trained on, and in no share")
        if self.set_aside:
            parts.append(f"set aside {self.set_aside:,}")
        if distances_km := [pair.km for pair in self.closest if pair.km is not None]:
            parts.append(f"closest rows of two splits {format_km(min(distances_km))} apart")
        return "; ".join(parts)


def check_splits(splits: Splits, table: SampleTable, groups: Groups) -> SplitReport:
    """Checks splits as `inspect_splits` does, and lets nothing leak in our own, but where they are random.

    Raises:
        SplitError: what is broken, with the rows.
    """
    report = inspect_splits(splits, table, groups)
    if report.leaks and splits.is_ours and not splits.leaks_by_design:
        raise SplitError(f"{splits.source} leaks. {_as_sentences(report.leaks)} {RERUN_HINT}")
    return report


def inspect_splits(splits: Splits, table: SampleTable, groups: Groups) -> SplitReport:
    """Measures splits against the data they are for.

    All must be disjoint, with both labels in each. Ours must also name every row, and be true to the shares they record
    and to the data's fingerprint. Whatever leaks is in the report, and in its warnings.

    Raises:
        SplitError: the splits are not what they say, or do not fit the data.
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
    # What was set aside so that it joins nothing must not join here what it resembles.
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
            "Each row belongs to one split; mend the file, or delete it and run `roadwork split`."
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
            f"{splits.source} names {named:,} rows of {len(table):,}; the others are in no split and not set aside. "
            f"{RERUN_HINT}"
        )
    for name, recorded in splits.shares.items():
        share = _shares(rows, train_only)[name]
        if abs(share - recorded) > RECORD_TOLERANCE:
            raise SplitError(
                f"{splits.source} says {name} has {recorded:.2%} of the rows, but it is {share:.2%}. {RERUN_HINT}"
            )


def _as_sentences(leaks: tuple[Leak, ...]) -> str:
    return " ".join(f"{leak}." for leak in leaks)


def _warn_of_leaks(splits: Splits, leaks: tuple[Leak, ...]) -> tuple[str, ...]:
    if splits.leaks_by_design:
        return (f"{splits.source}: {RANDOM_SPLIT_NOTE} {_as_sentences(leaks)}".rstrip(),)
    return tuple(
        f"{splits.source}: {leak}. Scores on such a split are too good; `roadwork split` makes one without leaks."
        for leak in leaks
    )
