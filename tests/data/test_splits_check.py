"""The check finds every way in which splits are not what they say."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from roadwork.data.splits import make_splits
from roadwork.data.splits_check import check_splits
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError

RATIOS = {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
N = 400
NAMES = np.array([f"{i:04d}.jpg" for i in range(N)], dtype=object)
TABLE = SampleTable(
    ids=NAMES,
    filenames=NAMES,
    labels=(np.arange(N) // 4) % 2,
    gps=np.full((N, 2), np.nan),
    sequence_ids=np.array([f"s{i // 4}" for i in range(N)], dtype=object),
    slices=pd.DataFrame(index=range(N)),
)
OURS = make_splits(TABLE, RATIOS, 0)
USERS = replace(OURS, fingerprint="", source="mine.json")


def moved(splits, rows, source, target):
    """`splits` with `rows` (a count) of one split moved to another, or to `set_aside`."""
    ids = {name: list(values) for name, values in splits.ids.items()}
    taken, ids[source] = ids[source][:rows], ids[source][rows:]
    if target == "set_aside":
        return replace(splits, ids=ids, set_aside=[*splits.set_aside, *taken])
    ids[target] = [*ids[target], *taken]
    return replace(splits, ids=ids)


def test_ours_passes_without_a_warning():
    assert check_splits(OURS, TABLE).warnings == ()
    assert check_splits(USERS, TABLE).set_aside == 0


def test_other_data():
    labels = TABLE.labels.copy()
    labels[7] = 1 - labels[7]
    with pytest.raises(SplitError, match=r"made from other data: its fingerprint is sha256:.*run `roadwork split`"):
        check_splits(OURS, replace(TABLE, labels=labels))


@pytest.mark.parametrize("splits", [OURS, USERS])
def test_a_row_in_two_splits(splits):
    ids = {**splits.ids, "val_test": [*splits.ids["val_test"], splits.ids["train"][0]]}
    with pytest.raises(SplitError, match=r"1 rows more than once, first '\d+\.jpg' \(in train, val_test\)"):
        check_splits(replace(splits, ids=ids), TABLE)
    with pytest.raises(SplitError, match=r"\(in train, set_aside\)"):
        check_splits(replace(splits, set_aside=[splits.ids["train"][0]]), TABLE)


@pytest.mark.parametrize("splits", [OURS, USERS])
def test_an_empty_split_and_one_without_a_class(splits):
    with pytest.raises(SplitError, match=r"val_test has no rows; each split needs both None \(0\) and Roadwork \(1\)"):
        check_splits(moved(splits, N, "val_test", "set_aside"), TABLE)
    negatives = [row_id for row_id in splits.ids["val_test"] if TABLE.labels[int(row_id[:4])] == 0]
    with pytest.raises(SplitError, match="val_test has only label 0"):
        check_splits(replace(splits, ids={**splits.ids, "val_test": negatives}), TABLE)


def test_a_cut_sequence_is_an_error_in_ours_and_a_warning_in_a_users():
    with pytest.raises(SplitError, match=r"1 video sequences lie in more than one split, first 's\d+'.*again"):
        check_splits(moved(OURS, 2, "train", "val_test"), TABLE)
    [warning] = check_splits(moved(USERS, 2, "train", "val_test"), TABLE).warnings
    assert warning.startswith("mine.json: 1 video sequences lie in more than one split")
    assert "`roadwork split` makes one without leaks" in warning


def test_a_sequence_partly_set_aside_is_not_cut():
    assert check_splits(moved(USERS, 2, "train", "set_aside"), TABLE).warnings == ()


def test_ratios_that_the_rows_do_not_have():
    with pytest.raises(SplitError, match=r"says train is 60% of the rows, but it is 50\.0%"):
        check_splits(moved(OURS, 40, "train", "val_test"), TABLE)
    check_splits(moved(USERS, 40, "train", "val_test"), TABLE)  # a user's own may have any


def test_rows_in_no_split_and_not_set_aside():
    ids = {**OURS.ids, "train": OURS.ids["train"][4:]}
    with pytest.raises(SplitError, match="names 396 rows of 400"):
        check_splits(replace(OURS, ids=ids), TABLE)


def test_an_unbalanced_split_is_warned_about():
    positives = [i for i in USERS.ids["train"] if TABLE.labels[int(i[:4])] == 1]
    ids = {**USERS.ids, "train": [*positives, next(i for i in USERS.ids["train"] if i not in positives)]}
    warnings = check_splits(replace(USERS, ids=ids), TABLE).warnings
    assert any(text.startswith("train has 99% Roadwork, all splits together") for text in warnings)
