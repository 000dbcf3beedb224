"""The check finds every inconsistency of splits."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import SplitError
from roadwork.data.grouping.groups import Groups, sequence_groups
from roadwork.data.splitting.check import check_splits, inspect_splits
from roadwork.data.splitting.splits import make_splits
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES, SplittingSettings

RATIOS = {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
N = 800
NAMES = np.array([f"{i:04d}.jpg" for i in range(N)], dtype=object)
# Sequences of four frames, a few metres apart, some 20 km from the next.
TABLE = SampleTable(
    ids=NAMES,
    filenames=NAMES,
    labels=(np.arange(N) // 4) % 2,
    gps=np.stack([np.full(N, 40.0), (np.arange(N) // 4) * 0.25 + (np.arange(N) % 4) * 1e-5], axis=1),
    sequence_ids=np.array([f"s{i // 4}" for i in range(N)], dtype=object),
    slices=pd.DataFrame(index=range(N)),
)
GROUPS = Groups(
    names=sequence_groups(TABLE),
    set_aside=np.zeros(N, dtype=bool),
    duplicates=np.array([[0, 1], [40, 43]]),
    buffer_km=1.0,
)
OURS = make_splits(TABLE, GROUPS, RATIOS, SplittingSettings())
USERS = replace(OURS, strategy="", fingerprint="", ratios={}, shares={}, buffer_km=None, source="mine.json")
RANDOM = make_splits(TABLE, GROUPS, RATIOS, SplittingSettings(strategy="random"))


def moved(splits, rows, source, target):
    """`splits` with `rows` (a count) of one split moved to another, or to `set_aside`."""
    ids = {name: list(values) for name, values in splits.ids.items()}
    taken, ids[source] = ids[source][:rows], ids[source][rows:]
    if target == "set_aside":
        return replace(splits, ids=ids, set_aside=[*splits.set_aside, *taken])
    ids[target] = [*ids[target], *taken]
    return replace(splits, ids=ids)


def recorded(splits):
    """`splits` with their actual shares."""
    total = sum(map(len, splits.ids.values()))
    return replace(splits, shares={name: len(ids) / total for name, ids in splits.ids.items()})


def test_ours_passes_without_a_warning():
    assert check_splits(OURS, TABLE, GROUPS).warnings == ()
    assert check_splits(USERS, TABLE, GROUPS).set_aside == 0


def test_splits_of_other_data_are_rejected():
    labels = TABLE.labels.copy()
    labels[7] = 1 - labels[7]
    with pytest.raises(SplitError, match=r"fingerprint.*sha256:.*`roadwork split`"):
        check_splits(OURS, replace(TABLE, labels=labels), GROUPS)


@pytest.mark.parametrize("splits", [OURS, USERS])
def test_row_in_two_splits(splits):
    ids = {**splits.ids, "val_test": [*splits.ids["val_test"], splits.ids["train"][0]]}
    with pytest.raises(SplitError, match=r"\b1 rows.*'\d+\.jpg' \(in train, val_test\)"):
        check_splits(replace(splits, ids=ids), TABLE, GROUPS)
    with pytest.raises(SplitError, match=r"\(in train, set_aside\)"):
        check_splits(replace(splits, set_aside=[splits.ids["train"][0]]), TABLE, GROUPS)


@pytest.mark.parametrize("splits", [OURS, USERS])
def test_empty_split_and_one_without_a_class(splits):
    with pytest.raises(SplitError, match=r"val_test.*no rows.*None \(0\) and Roadwork \(1\)"):
        check_splits(moved(splits, N, "val_test", "set_aside"), TABLE, GROUPS)
    negatives = [row_id for row_id in splits.ids["val_test"] if TABLE.labels[int(row_id[:4])] == 0]
    with pytest.raises(SplitError, match=r"val_test.*label 0"):
        check_splits(replace(splits, ids={**splits.ids, "val_test": negatives}), TABLE, GROUPS)


def test_split_sequence_fails_in_ours_and_warns_in_a_users_file():
    with pytest.raises(SplitError, match=r"Sequences.*: 1\b.*sequence s\d+"):
        check_splits(recorded(moved(OURS, 2, "train", "val_test")), TABLE, GROUPS)
    report = check_splits(moved(USERS, 2, "train", "val_test"), TABLE, GROUPS)
    assert [leak.kind for leak in report.leaks] == ["sequence", "distance"]
    assert report.warnings[0].startswith("mine.json: Sequences in more than one split: 1")
    assert "`roadwork split` makes one without leaks" in report.warnings[0]


def test_near_duplicates_across_splits():
    names = OURS.names_by_row(TABLE)
    pair = np.flatnonzero(names == "train")[0], np.flatnonzero(names == "val_test")[0]
    groups = replace(GROUPS, duplicates=np.array([pair]))
    with pytest.raises(SplitError, match=r"near-duplicate.*: 1\b.*\d+\.jpg \(train\)"):
        check_splits(OURS, TABLE, groups)
    [leak] = check_splits(USERS, TABLE, groups).leaks
    assert leak.kind == "near_duplicate"
    assert {*leak.examples[0].filenames} == {*NAMES[list(pair)]}


def test_neighbours_across_splits():
    with pytest.raises(SplitError, match=r"50\.0 km.*: \d+.*21\.3 km"):
        check_splits(replace(OURS, buffer_km=50.0), TABLE, GROUPS)
    assert check_splits(replace(OURS, buffer_km=20.0), TABLE, replace(GROUPS, buffer_km=50.0)).leaks == ()
    [leak] = check_splits(USERS, TABLE, replace(GROUPS, buffer_km=50.0)).leaks
    assert leak.kind == "distance"


def test_random_split_reports_its_leaks():
    report = check_splits(RANDOM, TABLE, GROUPS)
    assert {leak.kind for leak in report.leaks} == {"sequence", "near_duplicate", "distance"}
    assert "a RANDOM split, which leaks by design" in report.warnings[0]
    assert "Sequences in more than one split" in report.warnings[0]
    apart = replace(TABLE, sequence_ids=NAMES)
    lucky = make_splits(apart, replace(GROUPS, buffer_km=0), RATIOS, SplittingSettings(strategy="random"))
    report = check_splits(lucky, apart, replace(GROUPS, buffer_km=0, duplicates=np.empty((0, 2), dtype=np.int64)))
    assert report.leaks == ()
    assert "RANDOM" in report.warnings[0]


def test_set_aside_rows_do_not_leak():
    report = check_splits(moved(USERS, 2, "train", "set_aside"), TABLE, GROUPS)
    assert report.leaks == ()
    assert report.set_aside == 2


def test_splits_of_an_older_roadwork():
    with pytest.raises(SplitError, match=r"older roadwork.*`roadwork split`"):
        check_splits(replace(OURS, strategy="sequence", buffer_km=None, shares={}), TABLE, GROUPS)


def test_shares_that_the_rows_do_not_have():
    with pytest.raises(SplitError, match=r"\btrain\b.*60\.00%.*59\.50%"):
        check_splits(moved(OURS, 4, "train", "val_test"), TABLE, GROUPS)


def test_shares_far_from_their_ratios_are_warned_about():
    far = recorded(moved(OURS, 80, "train", "set_aside"))
    warnings = check_splits(far, TABLE, GROUPS).warnings
    assert "train has 55.6% of the rows; the ratio is 60.0%." in warnings
    assert not any(
        "the ratio is" in warning for warning in check_splits(replace(far, ratios={}), TABLE, GROUPS).warnings
    )


def test_rows_in_no_split_and_not_set_aside():
    ids = {**OURS.ids, "train": OURS.ids["train"][4:]}
    with pytest.raises(SplitError, match=r"\b796\b.*\b800\b"):
        check_splits(replace(OURS, ids=ids), TABLE, GROUPS)


def test_unbalanced_split_is_warned_about():
    [first] = [i for i in USERS.ids["train"] if TABLE.labels[int(i[:4])] == 0][:1]
    ids = {**USERS.ids, "train": [first, *(i for i in USERS.ids["train"] if TABLE.labels[int(i[:4])] == 1)]}
    warnings = check_splits(replace(USERS, ids=ids), TABLE, GROUPS).warnings
    assert any(text.startswith("train has 99.6%") for text in warnings)


def test_report_measures_rows_groups_and_distances():
    report = inspect_splits(OURS, TABLE, GROUPS)
    names = OURS.names_by_row(TABLE)
    assert report.rows == {name: int((names == name).sum()) for name in SPLIT_NAMES}
    assert report.groups == {name: report.rows[name] // 4 for name in SPLIT_NAMES}
    assert report.shares == pytest.approx(OURS.shares)
    assert len(report.closest) == 6
    assert min(pair.km for pair in report.closest) == pytest.approx(21.3, abs=0.1)
    assert str(report).startswith("train 480 (60.0%, 50% Roadwork); val_select 120")
