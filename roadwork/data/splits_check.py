"""Whether splits are what they say, and fit the data; run on every load."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from roadwork.data.groups import sequence_groups
from roadwork.data.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError
from roadwork.settings import SPLIT_NAMES

# How far a split's share may lie from its ratio, beyond what whole groups explain: one group's size, and up to three
# where there are so few that each split was handed its one group of each label.
RATIO_TOLERANCE = 0.01
MAX_GROUPS_OFF = 3
BALANCE_WARNING = 0.10


@dataclass(frozen=True)
class SplitReport:
    """What the check of splits found.

    Attributes:
        rows: split name to its number of rows.
        positive_share: split name to its share of Roadwork.
        warnings: what is worth knowing, but stops nothing.
    """

    rows: dict[str, int]
    positive_share: dict[str, float]
    set_aside: int
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        total = sum(self.rows.values())
        parts = [
            f"{n} {self.rows[n]:,} ({self.rows[n] / total:.1%}, {self.positive_share[n]:.0%} Roadwork)"
            for n in SPLIT_NAMES
        ]
        return "; ".join(parts) + (f"; set aside {self.set_aside:,}" if self.set_aside else "")


def check_splits(splits: Splits, table: SampleTable) -> SplitReport:
    """Checks splits against the data they are for.

    Ours must be disjoint, complete with what was set aside, true to their ratios and to the data's fingerprint, with no
    sequence cut in two. A user's own must be disjoint, and have both labels; the rest is warned about.

    Raises:
        SplitError: what is broken, with the rows.
    """
    _check_disjoint(splits)
    names = splits.names_by_row(table)
    rows = {name: int((names == name).sum()) for name in SPLIT_NAMES}
    _check_labels(splits, table, names)
    positive_share = {name: float(table.labels[names == name].mean()) for name in SPLIT_NAMES}
    warnings = []
    cut = _cut_sequences(table, names)
    if cut:
        message = (
            f"{splits.source}: {len(cut)} video sequences lie in more than one split, first {cut[0]!r}: "
            "their frames leak across them."
        )
        if splits.is_ours:
            raise SplitError(f"{message} Run `roadwork split` again.")
        warnings.append(f"{message} Scores on such a split are too good; `roadwork split` makes one without leaks.")
    if splits.is_ours:
        _check_made_from(splits, table, rows)
    overall = float(table.labels[names != ""].mean())
    warnings += [
        f"{name} has {share:.0%} Roadwork, all splits together {overall:.0%}."
        for name, share in positive_share.items()
        if abs(share - overall) > BALANCE_WARNING
    ]
    return SplitReport(rows, positive_share, len(table) - sum(rows.values()), tuple(warnings))


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


def _cut_sequences(table: SampleTable, names: np.ndarray) -> list[str]:
    seen: dict[str, str] = {}
    cut = set()
    for group, name in zip(sequence_groups(table), names, strict=True):
        if name and seen.setdefault(group, name) != name:
            cut.add(str(group))
    return sorted(cut)


def _check_made_from(splits: Splits, table: SampleTable, rows: dict[str, int]) -> None:
    if splits.fingerprint != table.fingerprint():
        raise SplitError(
            f"{splits.source} was made from other data: its fingerprint is {splits.fingerprint[:19]}…, this data's is "
            f"{table.fingerprint()[:19]}…. Rows, labels, positions or sequences have changed since; "
            "run `roadwork split` for new splits."
        )
    named = sum(rows.values()) + len(splits.set_aside)
    if named != len(table):
        raise SplitError(
            f"{splits.source} names {named:,} rows of {len(table):,}; the others are in no split and not set aside. "
            "Run `roadwork split` again."
        )
    largest = Counter(sequence_groups(table)).most_common(1)[0][1] / len(table)
    for name, ratio in splits.ratios.items():
        share = rows[name] / sum(rows.values())
        if abs(share - ratio) > RATIO_TOLERANCE + MAX_GROUPS_OFF * largest:
            raise SplitError(
                f"{splits.source} says {name} is {ratio:.0%} of the rows, but it is {share:.1%}. "
                "Run `roadwork split` again."
            )
