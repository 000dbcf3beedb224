"""Folds of whole groups or regions, and the splits of each fold."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from roadwork.calibration.across import check_regions
from roadwork.core.errors import ConfigError, SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable, column_text, find_slice_column
from roadwork.data.utils.geo import h3_cells
from roadwork.settings.sampling import CALIBRATION_SPLIT, SELECTION_SPLIT, TEST_SPLIT, TRAIN_SPLIT

# Hexagons with sides of about 180 km: a city and its surroundings.
REGION_RESOLUTION = 2
H3 = "h3"

# The checkpoint is selected on one of this many parts of the other folds: about 14 % of their rows.
SELECTION_PARTS = 7

# More folds train on more regions each, but each is one more fit.
MAX_REGION_FOLDS = 5


def make_folds(
    table: SampleTable,
    groups: np.ndarray,
    n_folds: int,
    seed: int,
    regions: np.ndarray | None = None,
) -> np.ndarray:
    """(N,) int64 fold of each row, from 0; groups stay whole, and labels are stratified.

    The folds depend on the rows and the seed, but not on the order of the rows.

    Args:
        table: the rows to divide.
        groups: (N,) group of each row; rows of one group share a fold.
        n_folds: 2 or more. With fewer regions than this, each region is a fold.
        seed: of the assignment.
        regions: (N,) str region of each row, empty if unknown, as from `find_regions`. If given, regions stay whole. A
            group in several regions belongs to the one with most of its rows; groups without a region form their own.

    Raises:
        ConfigError: `n_folds` is below 2.
        SplitError: too few groups or regions for each fold to have both labels.
    """
    if n_folds < 2:
        raise ConfigError(f"--folds is {n_folds}; it must be 2 or more.")
    units, unit_word = groups.astype(str), "groups"
    if regions is not None:
        units, unit_word = region_of_group(units, regions), "regions"
    names, inverse = np.unique(units, return_inverse=True)
    if regions is not None and 2 <= len(names) <= n_folds:
        folds = inverse.astype(np.int64)
    else:
        _check_enough(table.labels, inverse, n_folds, unit_word)
        folds = np.empty(len(table), dtype=np.int64)
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(inverse, table.labels, inverse)):
            folds[held_out] = fold
    _check_labels(table.labels, folds, unit_word)
    return folds


def find_regions(table: SampleTable, region_column: str | None) -> np.ndarray:
    """(N,) str region of each row, from `region_column` of the dataset, else its H3 cell; empty if unknown.

    Raises:
        ConfigError: the dataset has no such column, or no row has a region.
    """
    if region_column is None:
        regions = h3_cells(table.gps, REGION_RESOLUTION)
        source = "has GPS, and data.splitting.region_column is null"
    else:
        regions = column_text(find_slice_column(table, "data.splitting.region_column", region_column))
        source = f"has a value in data.splitting.region_column={region_column}"
    if not (regions != "").any():
        raise ConfigError(
            f"--by region found no region: no row {source}. Set data.splitting.region_column to a column with regions "
            f"(the dataset has {', '.join(map(str, table.slices)) or 'none'}), or omit --by region."
        )
    return regions


def find_across(table: SampleTable, column: str) -> np.ndarray:
    """(N,) str region of each row as `--across` names it: the values of a column, or H3 cells; empty if unknown.

    Raises:
        ConfigError: the dataset has no such column.
    """
    if column == H3:
        return h3_cells(table.gps, REGION_RESOLUTION)
    return column_text(find_slice_column(table, f"--across ({H3}, or a column of the data)", column))


def region_of_group(groups: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(N,) region of each row's group: the one with most of its rows; ties go to the first by name."""
    known = pd.DataFrame({"group": groups, "region": regions.astype(str)}).query("region != ''")
    counts = known.groupby(["group", "region"], as_index=False).size()
    most = counts.sort_values(["size", "region"], ascending=[False, True]).drop_duplicates("group")
    return pd.Series(groups).map(most.set_index("group")["region"]).fillna("").to_numpy(dtype=str)


def _check_enough(labels: np.ndarray, units: np.ndarray, n_folds: int, unit_word: str) -> None:
    with_label = [len(np.unique(units[labels == label])) for label in (0, 1)]
    if min(with_label) < n_folds:
        raise SplitError(
            f"{n_folds} folds need None and Roadwork in at least {n_folds} {unit_word} each, but {with_label[0]} "
            f"{unit_word} have None and {with_label[1]} have Roadwork. {_remedy(unit_word)}"
        )


def _check_labels(labels: np.ndarray, folds: np.ndarray, unit_word: str) -> None:
    n_folds = folds.max() + 1
    for fold in range(n_folds):
        counts = np.bincount(labels[folds == fold], minlength=2)
        if counts.min() == 0:
            raise SplitError(
                f"Fold {fold + 1} of {n_folds} would have {counts[0]:,} rows of None and {counts[1]:,} of Roadwork; "
                f"each fold needs both. {_remedy(unit_word)}"
            )


def _remedy(unit_word: str) -> str:
    if unit_word == "groups":
        return "Use fewer --folds, or add data."
    return "Use fewer --folds, omit --by region, or set data.splitting.region_column to larger regions."


def rows_to_divide(table: SampleTable, groups: Groups, splits: Splits) -> np.ndarray:
    """Positions of the rows in folds: not in val_test or set aside, in the order of their ids."""
    names = splits.names_by_row(table)
    inside = ~table.is_train_only  # each run assigns training-only rows by its own held-out rows
    rows = np.flatnonzero((names != "") & (names != TEST_SPLIT) & ~groups.set_aside & inside)
    ordered: np.ndarray = rows[np.argsort(table.ids[rows])]
    return ordered


def make_region_splits(
    table: SampleTable, groups: Groups, splits: Splits, *, seed: int, regions: np.ndarray, column: str
) -> list[Splits]:
    """As `make_fold_splits` with whole regions: a fold for each of them, up to `MAX_REGION_FOLDS`.

    Regions share a fold where one of them has only one label.

    Raises:
        ConfigError: there are too few regions; the message names the column.
        SplitError: not even two folds have both labels.
    """
    rows = rows_to_divide(table, groups, splits)
    check_regions(column, table.labels[rows], region_of_group(groups.names[rows], regions[rows]))
    for n_folds in range(MAX_REGION_FOLDS, 2, -1):
        try:
            return make_fold_splits(table, groups, splits, n_folds, seed=seed, regions=regions)
        except SplitError:
            continue
    return make_fold_splits(table, groups, splits, 2, seed=seed, regions=regions)


def make_fold_splits(
    table: SampleTable, groups: Groups, splits: Splits, n_folds: int, *, seed: int, regions: np.ndarray | None = None
) -> list[Splits]:
    """The splits of each fold's run; no row of `val_test` is in a fold.

    `val_calib` is the held-out fold, `val_select` a part of the other folds in whole groups, `train` the rest.
    `val_test` is copied from `splits`, since its coordinates can be the deployment. Rows set aside stay set aside, and
    so do training-only rows of a region that the fold holds out.

    Raises:
        SplitError: too few groups for each split to have both labels.
    """
    rows = rows_to_divide(table, groups, splits)
    folds = make_folds(table.take(rows), groups.names[rows], n_folds, seed, None if regions is None else regions[rows])
    named = {*table.ids[rows], *splits.ids[TEST_SPLIT]}
    set_aside = [row_id for row_id in table.ids[~table.is_train_only].tolist() if row_id not in named]
    made = []
    for fold in range(folds.max() + 1):
        rest = rows[folds != fold]
        excluded = [] if regions is None else _train_only_rows_of(table, regions, rows[folds == fold])
        is_selection = _pick_selection(table.take(rest), groups.names[rest], seed)
        ids = {
            TRAIN_SPLIT: table.ids[rest[~is_selection]].tolist(),
            SELECTION_SPLIT: table.ids[rest[is_selection]].tolist(),
            CALIBRATION_SPLIT: table.ids[rows[folds == fold]].tolist(),
            TEST_SPLIT: list(splits.ids[TEST_SPLIT]),
        }
        made.append(
            Splits(ids, [*set_aside, *excluded], strategy="cross-validation", seed=seed, buffer_km=groups.buffer_km)
        )
    return made


def _train_only_rows_of(table: SampleTable, regions: np.ndarray, held_out: np.ndarray) -> list[str]:
    """Ids of the training-only rows in a region of the held-out rows."""
    left_out = set(regions[held_out]) - {""}
    ids: list[str] = table.ids[table.is_train_only & np.isin(regions, list(left_out))].tolist()
    return ids


def _pick_selection(table: SampleTable, groups: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool, the rows that select the checkpoint, in whole groups."""
    fewest = min(len(np.unique(groups[table.labels == label])) for label in (0, 1))
    if fewest < 2:
        raise SplitError(
            "Outside the held-out fold, only one group has a label, but training and checkpoint selection need one "
            "group each. Use more --folds, or add data."
        )
    picked: np.ndarray = make_folds(table, groups, min(SELECTION_PARTS, fewest), seed) == 0
    return picked
