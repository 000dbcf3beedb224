"""The rows of val_calib, and how they are divided by group."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from roadwork.calibration.abstain import groups_needed
from roadwork.core.errors import DataError
from roadwork.metrics.predictions import predicted_margins

MAX_FOLDS = 5
CALIBRATION_SPLIT = "val_calib"

# A third of the groups is reserved for the abstention band.
ABSTAIN_PARTS = 3
_COLUMNS = ["id", "group", "label", "logit_none", "logit_roadwork"]


def divide_groups(labels: np.ndarray, groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray | None:
    """(N,) int64 fold of each row, from 0, stratified by label; None if a fold would lack a label.

    Args:
        labels: (N,) 0 or 1.
        groups: (N,) names or numbers; rows of one group share a fold.
        n_folds: 2 or more.
        seed: seed of the assignment.
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
    """(N,) int64 fold of each row: `MAX_FOLDS` folds or fewer; None if not even two folds can have both labels."""
    for n_folds in range(MAX_FOLDS, 1, -1):
        folds = divide_groups(labels, groups, n_folds, seed)
        if folds is not None:
            return folds
    return None


@dataclass(frozen=True)
class Rows:
    """Labels (N,) 0 or 1, margins (N,) and groups (N,) of rows."""

    labels: np.ndarray
    margins: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return len(np.unique(self.groups))

    def take(self, chosen: np.ndarray) -> Rows:
        """The rows where a mask (N,) holds."""
        return Rows(self.labels[chosen], self.margins[chosen], self.groups[chosen])

    def describe(self) -> dict[str, float]:
        """Numbers of rows and groups, and the share of Roadwork."""
        return {"n": len(self), "groups": self.n_groups, "roadwork_share": float(self.labels.mean())}


def read_rows(frame: pd.DataFrame) -> tuple[Rows, str]:
    """The rows of `val_calib` in order of their ids, and the SHA-256 of their content.

    The hash is of the values, not of the file, because calibration adds a column to the file.

    Raises:
        DataError: there are no rows, all have one label, or a logit is not finite.
    """
    chosen = frame.loc[frame["split"] == CALIBRATION_SPLIT, _COLUMNS].sort_values("id", kind="stable")
    if chosen.empty:
        found = ", ".join(sorted(frame["split"].unique()))
        raise DataError(
            f"The predictions have no row of {CALIBRATION_SPLIT} (splits: {found or 'none'}), which calibration needs. "
            f"Give {CALIBRATION_SPLIT} a share in data.splits and train again."
        )
    rows = Rows(chosen["label"].to_numpy(), predicted_margins(chosen), chosen["group"].to_numpy())
    if rows.labels.min() == rows.labels.max():
        raise DataError(
            f"All {len(rows):,} rows of {CALIBRATION_SPLIT} are labelled {('None', 'Roadwork')[rows.labels[0]]}; "
            "calibration needs both labels. Make splits that have both (`roadwork split`) and train again."
        )
    broken = chosen["id"].to_numpy()[~np.isfinite(rows.margins)]
    if len(broken):
        raise DataError(f"The logits of {broken[0]} are not finite. Write them again with `roadwork evaluate RUN`.")
    text = chosen.to_csv(index=False, float_format="%.17g")
    return rows, hashlib.sha256(text.encode()).hexdigest()


def is_fitted_on(calibration: Mapping[str, Any], predictions: pd.DataFrame) -> bool:
    """Whether the content of a `calibration.json` was fitted on these predictions.

    Raises:
        DataError: the predictions have no usable rows of `val_calib`.
    """
    return read_rows(predictions)[1] == calibration.get("sha256_of_rows")


def set_aside(rows: Rows, risk: float, seed: int) -> tuple[Rows, Rows]:
    """Rows for temperature and threshold, and rows of other groups for the abstention band.

    No rows are set aside if there are too few groups to guarantee the risk.
    """
    parts = divide_groups(rows.labels, rows.groups, ABSTAIN_PARTS, seed)
    aside = np.zeros(len(rows), dtype=bool) if parts is None else parts == 0
    if len(np.unique(rows.groups[aside])) < groups_needed(risk):
        aside[:] = False
    return rows.take(~aside), rows.take(aside)
