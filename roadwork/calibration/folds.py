"""Whole groups of val_calib, divided: to judge a fit on rows that it has not seen."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

MAX_FOLDS = 5


def divide_groups(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray | None:
    """(N,) int64 fold of each row, from 0, stratified by label; None where a fold would lack a label.

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) names or numbers; rows of one group share a fold.
        n_folds: 2 or more.
        seed: of the assignment.
    """
    if min(len(np.unique(groups[labels == label])) for label in (0, 1)) < n_folds:
        return None
    folds = np.empty(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
        folds[held_out] = fold
    has_both = all(len(np.unique(labels[folds == fold])) == 2 for fold in range(n_folds))
    return folds if has_both else None


def divide_as_far_as_possible(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray | None:
    """(N,) int64 fold of each row: `MAX_FOLDS` of them, else fewer; None where not even two can have both labels."""
    for n_folds in range(MAX_FOLDS, 1, -1):
        folds = divide_groups(labels, groups, n_folds, seed)
        if folds is not None:
            return folds
    return None
