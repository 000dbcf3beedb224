"""The splits of each fold's run: what it trains on, selects by, and holds out."""

from __future__ import annotations

import numpy as np

from roadwork.data.groups import Groups
from roadwork.data.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError
from roadwork.experiments.folds import make_folds

TRAINING, SELECTION, HELD_OUT, UNTOUCHED = "train", "val_select", "val_calib", "val_test"
# One of so many parts of the other folds selects the checkpoint: some 14 % of their rows.
SELECTION_PARTS = 7


def make_fold_splits(
    table: SampleTable, groups: Groups, splits: Splits, n_folds: int, *, seed: int, regions: np.ndarray | None = None
) -> list[Splits]:
    """The splits of each fold's run; no row of `val_test` is in a fold.

    `val_calib` is the held-out fold, `val_select` a part of the others in whole groups, `train` the rest. `val_test` is
    that of `splits`: its coordinates can be the deployment. What was set aside stays so.

    Raises:
        SplitError: too few groups for each split to have both labels.
    """
    names = splits.names_by_row(table)
    inside = ~table.is_train_only  # each fold's run places the others by its own held-out rows
    rows = np.flatnonzero((names != "") & (names != UNTOUCHED) & ~groups.set_aside & inside)
    rows = rows[np.argsort(table.ids[rows])]
    folds = make_folds(table.take(rows), groups.names[rows], n_folds, seed, None if regions is None else regions[rows])
    named = {*table.ids[rows], *splits.ids[UNTOUCHED]}
    set_aside = [row_id for row_id in table.ids[inside].tolist() if row_id not in named]
    made = []
    for fold in range(folds.max() + 1):
        rest = rows[folds != fold]
        is_selection = _pick_selection(table.take(rest), groups.names[rest], seed)
        ids = {
            TRAINING: table.ids[rest[~is_selection]].tolist(),
            SELECTION: table.ids[rest[is_selection]].tolist(),
            HELD_OUT: table.ids[rows[folds == fold]].tolist(),
            UNTOUCHED: list(splits.ids[UNTOUCHED]),
        }
        made.append(Splits(ids, set_aside, strategy="cross-validation", seed=seed, buffer_km=groups.buffer_km))
    return made


def _pick_selection(table: SampleTable, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool, the rows of whole groups that select the checkpoint."""
    fewest = min(len(np.unique(groups[table.labels == label])) for label in (0, 1))
    if fewest < 2:
        raise SplitError(
            "Outside the held-out fold only one group has a label; one to train on and one to select the checkpoint by "
            "are needed. Use more --folds, or add data."
        )
    picked: np.ndarray = make_folds(table, groups, min(SELECTION_PARTS, fewest), seed) == 0
    return picked
