"""A splits file, measured: whether it leaks, and whether its test resembles the deployment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from roadwork.data.source import find_groups, read_dataset, require_existing_splits
from roadwork.data.splits_check import SplitReport, inspect_splits
from roadwork.data.splitting.resemblance import Resemblance, compare_with_deployment
from roadwork.data.splitting.train_only import place_train_only
from roadwork.data.table import SampleTable
from roadwork.data.targets import find_deployment
from roadwork.settings import SPLIT_NAMES, DataSettings, Settings


@dataclass(frozen=True)
class Verification:
    """A splits file, measured.

    Attributes:
        file, strategy, leaks_by_design: of the splits; the strategy is empty for a user's own file.
        fingerprint: of the data.
        report: rows, shares, leaks and distances.
        ratios: the shares that the file, or else the configuration, asks for.
        resemblance: val_test beside the deployment; None where positions are missing.
        comparison: the same in a sentence, with where the deployment points come from.
        notes: what could not be looked at, and other remarks.
    """

    file: str
    strategy: str
    leaks_by_design: bool
    fingerprint: str
    report: SplitReport
    ratios: dict[str, float]
    resemblance: Resemblance | None
    comparison: str
    notes: tuple[str, ...]

    @property
    def leaks_nothing(self) -> bool:
        """Whether nothing is on both sides of a split, and not by luck."""
        return not self.report.leaks and not self.leaks_by_design

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        report = self.report
        return {
            "file": self.file,
            "strategy": self.strategy,
            "fingerprint": self.fingerprint,
            "leaks_nothing": self.leaks_nothing,
            "splits": {
                name: {
                    "rows": report.rows[name],
                    "share": report.shares[name],
                    "ratio": self.ratios[name],
                    "roadwork_share": report.positive_share[name],
                    "groups": report.groups[name],
                }
                for name in SPLIT_NAMES
            },
            "set_aside": report.set_aside,
            "buffer_km": report.buffer_km,
            "closest": [asdict(pair) for pair in report.closest],
            "leaks": [asdict(leak) for leak in report.leaks],
            "resemblance": self.resemblance and {**asdict(self.resemblance), "verdict": self.resemblance.verdict},
            "comparison": self.comparison,
            "warnings": list(report.warnings),
            "notes": list(self.notes),
        }


def verify_splits(settings: Settings) -> Verification:
    """Measures the splits file that the configuration names; writes nothing but the cache of image hashes.

    Raises:
        SplitError: there is no such file, or it does not fit the data.
    """
    data = settings.data
    table, source = read_dataset(data)
    splits = require_existing_splits(settings, table)
    groups = find_groups(data, table, source)
    splits = place_train_only(splits, table, groups)
    report = inspect_splits(splits, table, groups)
    names = splits.names_by_row(table)
    resemblance, comparison = _compare(data, table, names)
    return Verification(
        file=splits.source,
        strategy=splits.strategy,
        leaks_by_design=splits.leaks_by_design,
        fingerprint=table.source_fingerprint(),
        report=report,
        ratios={**data.splits, **splits.ratios},
        resemblance=resemblance,
        comparison=comparison,
        notes=(*groups.notes, *_not_looked_at(data, table, names, report)),
    )


def _compare(data: DataSettings, table: SampleTable, names: np.ndarray) -> tuple[Resemblance | None, str]:
    """(val_test beside the deployment, what that means)."""
    train, test = (table.gps[(names == name) & table.has_gps] for name in ("train", "val_test"))
    if not len(train) or not len(test):
        without = "train" if not len(train) else "val_test"
        return None, f"Whether val_test resembles the deployment is not known: no row of {without} has GPS."
    points, where = find_deployment(data, table, names)
    resemblance = compare_with_deployment(train, test, points)
    if np.array_equal(points, test):
        return resemblance, (
            "val_test resembles the deployment by construction: the deployment points are its own. "
            "Name others with data.gps_sampling.target=FILE."
        )
    return resemblance, f"{resemblance} The deployment is {where}."


def _not_looked_at(data: DataSettings, table: SampleTable, names: np.ndarray, report: SplitReport) -> list[str]:
    notes = []
    if not data.splitting.near_duplicates:
        notes.append("Near-duplicate images were not looked for: data.splitting.near_duplicates is false.")
    if report.buffer_km == 0:
        notes.append("No distance between splits was asked for: the buffer is 0 km.")
    unplaced = int(((names != "") & ~table.has_gps).sum())
    if unplaced:
        notes.append(
            f"{unplaced:,} rows of the splits have no GPS, so how far they lie from other splits is not known."
        )
    return notes
