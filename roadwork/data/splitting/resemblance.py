"""Whether the test resembles the deployment: how far both lie from the training rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import wasserstein_distance

from roadwork.data.splitting.leaks import format_km
from roadwork.data.utils.position_tree import PositionTree
from roadwork.errors import DataError

# W below this share of the deployment's mean distance counts as resembling.
_ALIKE = 0.1


@dataclass(frozen=True)
class Resemblance:
    """Nearest-training distances of val_test beside the deployment's, in kilometres.

    Attributes:
        test_median_km, test_mean_km: of the val_test rows' distances to the nearest training row.
        deployment_median_km, deployment_mean_km: of the deployment points' distances.
        wasserstein_km: W of kNNDM; 0 where the two distributions are the same.
    """

    test_median_km: float
    test_mean_km: float
    deployment_median_km: float
    deployment_mean_km: float
    wasserstein_km: float

    @property
    def verdict(self) -> str:
        """`alike`, `easier` or `harder` than the deployment, or `mixed`: nearer here and farther there."""
        if self.wasserstein_km <= _ALIKE * self.deployment_mean_km:
            return "alike"
        by_mean = self.deployment_mean_km - self.test_mean_km
        by_median = self.deployment_median_km - self.test_median_km
        # Where one distribution lies wholly beyond the other, the means differ by all of W.
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
    """The nearest-neighbour distance statistic of kNNDM, for one split in place of k folds.

    W is the integral of |F - G|, with F the empirical distribution of the distances from a test row to the nearest
    training row, and G that from a deployment point to the nearest training row: Linnenbrink, Milà, Ludwig and Meyer,
    "kNNDM CV: k-fold nearest-neighbour distance matching cross-validation for map accuracy estimation",
    Geoscientific Model Development 17 (2024), 5897-5912.

    Args:
        train_gps: (N, 2) latitude, longitude in degrees; rows with NaN are left out, as in the others.
        test_gps: (M, 2) likewise.
        deployment_gps: (K, 2) likewise.

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
