"""A classifier two-sample test: can a classifier separate a batch of photos from training photos by their features?

The classifier is a cross-validated logistic regression (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests",
ICLR 2017). The null distribution comes from whole groups of training photos, such as drives, that are held out of the
comparison: a new drive is always a little unlike the others.

The statistic is d', the difference of the mean scores in standard deviations of the reference's scores. The AUC of two
normal distributions with this d' is shown to people. The AUC itself would not do: frames of one drive, even a familiar
one, are often separated perfectly, and above 1.0 nothing could be foreign.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

FOLDS, PARTS, DRAWS = 5, 4, 100
# More photos would not be more drives: the test would then find the small differences that every new drive has.
SIZES = (8, 16, 32, 64)
# An error rate of 5 % cannot be checked on fewer groups.
MIN_GROUPS = 20
ERROR_RATE = 0.05
# Chosen on generated scenes, by the share of flagged foreign cities at an error rate of at most 5 %.
COMPONENTS, REGULARIZATION, PHOTOS_PER_CLUSTER = 64, 0.01, 4


@dataclass(frozen=True)
class Projection:
    """Principal components of reference features, whitened, and the distance to them.

    Attributes:
        mean: (D,) of the reference.
        components: (K, D) orthonormal.
        scales: (K,) standard deviations of the reference along them.
    """

    mean: np.ndarray
    components: np.ndarray
    scales: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Self:
        """The projection of reference features (R, D)."""
        mean = features.mean(axis=0)
        _, singular, components = np.linalg.svd(features - mean, full_matrices=False)
        scales = singular / np.sqrt(len(features))
        count = max(1, min(COMPONENTS, len(features) // 4, int((scales > 1e-4 * scales[0]).sum())))
        return cls(mean, components[:count], np.maximum(scales[:count], np.finfo(np.float32).tiny))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N, K + 1): the whitened components of features (N, D), and the logarithm of the distance to their span."""
        centred = features - self.mean
        coordinates = centred @ self.components.T
        distance = np.linalg.norm(centred - coordinates @ self.components, axis=1)
        floor = 1e-3 * float(np.linalg.norm(self.scales))
        return np.column_stack([coordinates / self.scales, np.log(distance + floor) - np.log(floor)])


def separability(reference: np.ndarray, groups: np.ndarray, batch: np.ndarray) -> float:
    """The statistic d' of a batch: cross-validated, of a logistic regression that separates it from the reference.

    Folds keep reference groups together. The groups of a batch are unknown, so similar photos of it, such as frames of
    a drive, share a fold: Ward clusters of their features.

    Args:
        reference: (R, K) projected features.
        groups: (R,) group of each reference row.
        batch: (M, K) projected features, M at least 8.
    """
    # Slow to import, and not needed for a few photos.
    from scipy.cluster.hierarchy import fcluster, linkage  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415

    clusters = fcluster(linkage(batch, "ward"), max(FOLDS, len(batch) // PHOTOS_PER_CLUSTER), "maxclust")
    fold = np.concatenate([_balanced_folds(groups), _balanced_folds(clusters)])
    features = np.concatenate([reference, batch])
    is_batch = np.arange(len(features)) >= len(reference)
    distances, weights = [], []
    for number in range(FOLDS):
        tested = fold == number
        n_tested = int(is_batch[tested].sum())
        if n_tested == 0 or n_tested in (int(tested.sum()), len(batch)):  # identical photos form a single cluster
            continue
        model = LogisticRegression(C=REGULARIZATION, class_weight="balanced", solver="newton-cholesky")
        model.fit(features[~tested], is_batch[~tested])
        found = model.decision_function(features[tested])
        own, others = found[is_batch[tested]], found[~is_batch[tested]]
        distances.append((own.mean() - others.mean()) / max(others.std(), 1e-6))
        weights.append(n_tested)
    return float(np.average(distances, weights=weights)) if distances else math.inf


def auc_of(distance: float) -> float:
    """The AUC of two normal distributions with equal variance whose means are `distance` standard deviations apart."""
    return (1 + math.erf(distance / 2)) / 2


def _balanced_folds(groups: np.ndarray) -> np.ndarray:
    """(N,) fold of each row; folds keep groups (N,) together and have similar sizes."""
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    load, fold = np.zeros(FOLDS), np.empty(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold[group] = load.argmin()
        load[fold[group]] += sizes[group]
    chosen: np.ndarray = fold[inverse]
    return chosen


def draw_groups(groups: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """(size,) rows of random whole groups, the last one cut; a group's chance grows with its size."""
    rows: list[int] = []
    drawn: set[int] = set()
    for row in rng.permutation(len(groups)):
        group = groups[row].item()
        if group not in drawn:
            drawn.add(group)
            rows += np.flatnonzero(groups == group).tolist()
        if len(rows) >= size:
            break
    return np.array(rows[:size], dtype=np.int64)


def null_distribution(
    features: np.ndarray, groups: np.ndarray, is_unseen: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The statistic of groups that are held out of the reference, for some batch sizes.

    The groups are divided into parts. Draws from a part are compared with the other parts, so that neither the
    projection nor the reference contains them.

    Args:
        features: (R, D) of the reference.
        groups: (R,) integers.
        is_unseen: (R,) bool, rows that training has not fitted; only these are drawn.
        seed: of the division and the draws.

    Returns:
        (S,) batch sizes and (S, DRAWS) values of the statistic; S is 0 with too few groups or rows.
    """
    rng = np.random.default_rng(seed)
    unseen_groups = np.unique(groups[is_unseen])
    if len(unseen_groups) < MIN_GROUPS:
        return np.empty(0, dtype=np.int64), np.empty((0, DRAWS))
    part_of = {group: number % PARTS for number, group in enumerate(rng.permutation(unseen_groups).tolist())}
    part = np.array([part_of.get(group, -1) for group in groups.tolist()])
    drawable = [np.flatnonzero((part == number) & is_unseen) for number in range(PARTS)]
    sizes = [size for size in SIZES if size <= min(map(len, drawable))]
    values = np.empty((len(sizes), PARTS, DRAWS // PARTS))
    for number, own in enumerate(drawable):
        rest = part != number
        project = Projection.fit(features[rest])
        reference, candidates = project(features[rest]), project(features[own])
        for row, size in enumerate(sizes):
            for draw in range(DRAWS // PARTS):
                batch = candidates[draw_groups(groups[own], size, rng)]
                values[row, number, draw] = separability(reference, groups[rest], batch)
    return np.array(sizes, dtype=np.int64), values.reshape(len(sizes), -1)


def critical_value(null: np.ndarray) -> float:
    """The value that at most 5 % of the null distribution exceeds.

    It is the upper end of a one-sided 95 % interval of the 95th percentile, because (N,) draws are a small sample.
    """
    from scipy.stats import binom  # noqa: PLC0415 -- slow to import

    rank = int(binom.ppf(1 - ERROR_RATE, len(null), 1 - ERROR_RATE))
    return float(np.sort(null)[min(rank, len(null) - 1)])
