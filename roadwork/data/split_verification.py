"""Verifies a splits file: leaks, and whether the test set resembles the deployment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from roadwork.core.errors import DataError
from roadwork.data.deployment import find_deployment
from roadwork.data.open import Dataset
from roadwork.data.splitting.check import SplitReport, inspect_splits
from roadwork.data.splitting.leaks import format_km
from roadwork.data.splitting.train_only import place_train_only
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import PositionTree
from roadwork.settings import SPLIT_NAMES, DataSettings

# The distributions count as alike if W is at most this share of the deployment's mean distance.
_ALIKE = 0.1


@dataclass(frozen=True)
class Resemblance:
    """Distances to the nearest training row, of val_test and of the deployment, in km.

    Attributes:
        test_median_km, test_mean_km: median and mean over the val_test rows.
        deployment_median_km, deployment_mean_km: the same over the deployment points.
        wasserstein_km: W of kNNDM; 0 if the two distributions are equal.
    """

    test_median_km: float
    test_mean_km: float
    deployment_median_km: float
    deployment_mean_km: float
    wasserstein_km: float

    @property
    def verdict(self) -> str:
        """`alike`, `easier` or `harder` than the deployment, or `mixed`: partly nearer, partly farther."""
        if self.wasserstein_km <= _ALIKE * self.deployment_mean_km:
            return "alike"
        by_mean = self.deployment_mean_km - self.test_mean_km
        by_median = self.deployment_median_km - self.test_median_km
        # If one distribution lies wholly beyond the other, the means differ by W.
        if abs(by_mean) < self.wasserstein_km / 2 or by_mean * by_median < 0:
            return "mixed"
        return "easier" if by_mean > 0 else "harder"

    def __str__(self) -> str:
        meaning = {
            "alike": "val_test resembles the deployment in its distance from training",
            "easier": "val_test is easier than the deployment, so expect the deployment to score lower",
            "harder": "val_test is harder than the deployment, so the deployment may score higher",
            "mixed": "some of val_test is nearer to training than the deployment, some is farther",
        }
        return (
            f"val_test lies a median {format_km(self.test_median_km)} from training, "
            f"the deployment {format_km(self.deployment_median_km)}: {meaning[self.verdict]} "
            f"(Wasserstein distance {format_km(self.wasserstein_km)})."
        )


def compare_with_deployment(train_gps: np.ndarray, test_gps: np.ndarray, deployment_gps: np.ndarray) -> Resemblance:
    """The nearest-neighbour distance statistic of kNNDM, for one split instead of k folds.

    W is the integral of |F - G|, with F the empirical distribution of the distances from a test row to the nearest
    training row, and G that from a deployment point to the nearest training row: Linnenbrink, Milà, Ludwig and Meyer,
    "kNNDM CV: k-fold nearest-neighbour distance matching cross-validation for map accuracy estimation",
    Geoscientific Model Development 17 (2024), 5897-5912.

    Args:
        train_gps: (N, 2) latitude, longitude in degrees; rows with NaN are ignored.
        test_gps: (M, 2) the same.
        deployment_gps: (K, 2) the same.

    Raises:
        DataError: one of them has no position.
    """
    known = {}
    for name, gps in (("train", train_gps), ("val_test", test_gps), ("the deployment", deployment_gps)):
        known[name] = gps[~np.isnan(gps).any(axis=1)]
        if len(known[name]) == 0:
            raise DataError(f"No row of {name} has GPS, so val_test cannot be compared with the deployment.")
    training = PositionTree(known["train"])
    test_km, _ = training.nearest(known["val_test"])
    deployment_km, _ = training.nearest(known["the deployment"])
    return Resemblance(
        test_median_km=float(np.median(test_km)),
        test_mean_km=float(test_km.mean()),
        deployment_median_km=float(np.median(deployment_km)),
        deployment_mean_km=float(deployment_km.mean()),
        wasserstein_km=float(wasserstein_distance(test_km, deployment_km)),
    )


@dataclass(frozen=True)
class Verification:
    """The measurements of a splits file.

    Attributes:
        file, strategy, leaks_by_design: origin of the splits; the strategy is empty for a user's own file.
        fingerprint: fingerprint of the data.
        report: rows, shares, leaks and distances.
        ratios: the shares that the file, or else the configuration, sets.
        resemblance: resemblance of val_test to the deployment; None if positions are missing.
        comparison: the resemblance in words, with the origin of the deployment points.
        notes: checks that were not possible, and other remarks.
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
        """Whether the splits have no leak, and their strategy allows none."""
        return not self.report.leaks and not self.leaks_by_design

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
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


def verify_splits(dataset: Dataset) -> Verification:
    """Measures the splits file of a dataset's configuration; writes only the cache of image hashes.

    Raises:
        SplitError: the file does not exist, or does not fit the data.
    """
    data = dataset.settings.data
    table, existing, groups = dataset.table, dataset.require_existing_splits(), dataset.groups
    splits = place_train_only(existing, table, groups)
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
        notes=(*groups.notes, *_skipped_checks(data, table, names, report)),
    )


def _compare(data: DataSettings, table: SampleTable, names: np.ndarray) -> tuple[Resemblance | None, str]:
    """The resemblance of val_test to the deployment, and its meaning in words."""
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


def _skipped_checks(data: DataSettings, table: SampleTable, names: np.ndarray, report: SplitReport) -> list[str]:
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
