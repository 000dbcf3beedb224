"""Splits are true to their ratios, whole in their sequences, and the same whatever the order of the rows."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.data.splits import make_splits
from roadwork.data.splits_check import check_splits
from roadwork.data.splits_file import read_splits
from roadwork.data.table import SampleTable
from roadwork.errors import SplitError
from roadwork.settings import SPLIT_NAMES

RATIOS = {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}


def table_of(sizes, labels=None):
    """Sequences of these sizes, one label each, alternating unless given."""
    labels = [i % 2 for i in range(len(sizes))] if labels is None else labels
    sequence = np.repeat([f"s{i:03d}" for i in range(len(sizes))], sizes).astype(object)
    n = len(sequence)
    names = np.array([f"photos/{i:04d}.jpg" for i in range(n)], dtype=object)
    return SampleTable(
        ids=names,
        filenames=names,
        labels=np.repeat(labels, sizes),
        gps=np.full((n, 2), np.nan),
        sequence_ids=sequence,
        slices=pd.DataFrame(index=range(n)),
    )


TABLE = table_of([1 + i % 5 for i in range(80)])

sizes_of_groups = st.one_of(
    st.lists(st.integers(1, 12), min_size=16, max_size=60),
    st.lists(st.sampled_from([1, 1, 1, 1, 2, 60]), min_size=16, max_size=60),
    st.integers(16, 90).map(lambda n: [1] * n),
)


@settings(max_examples=80, deadline=None)
@given(sizes=sizes_of_groups, seed=st.integers(0, 3))
def test_ratios_within_one_group_sequences_whole_and_labels_everywhere(sizes, seed):
    table = table_of(sizes)
    splits = make_splits(table, RATIOS, seed)
    names = splits.names_by_row(table)
    assert (names != "").all()
    for name, ratio in RATIOS.items():
        rows = names == name
        assert abs(rows.sum() - ratio * len(table)) <= max(sizes)
        assert set(table.labels[rows]) == {0, 1}
    for sequence in set(table.sequence_ids):
        assert len(set(names[table.sequence_ids == sequence])) == 1
    assert check_splits(splits, table).rows == Counter(names)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=8, max_size=20))
def test_what_is_made_passes_its_own_check_however_few_groups(sizes):
    table = table_of(sizes)
    check_splits(make_splits(table, RATIOS, 0), table)


def test_stratified():
    table = table_of([1] * 1000, labels=[int(i % 5 == 0) for i in range(1000)])
    report = check_splits(make_splits(table, RATIOS, 0), table)
    assert report.positive_share == pytest.approx(dict.fromkeys(SPLIT_NAMES, 0.2), abs=0.011)
    assert report.rows == {"train": 600, "val_select": 150, "val_calib": 150, "val_test": 100}
    assert str(report).startswith("train 600 (60.0%, 20% Roadwork); val_select 150 (15.0%")


def test_rows_without_a_sequence_are_split_alone():
    table = table_of([400], labels=[0])
    table = SampleTable(
        table.ids, table.filenames, np.arange(400) % 2, table.gps, np.full(400, "", dtype=object), table.slices
    )
    assert check_splits(make_splits(table, RATIOS, 0), table).rows["val_test"] == 40


def test_independent_of_row_order_and_deterministic():
    order = np.random.default_rng(0).permutation(len(TABLE))
    ids = make_splits(TABLE, RATIOS, 42).ids
    assert make_splits(TABLE.take(order), RATIOS, 42).ids == ids
    assert make_splits(TABLE, RATIOS, 42).ids == ids


def test_seeds_differ_and_zero_is_one():
    seen = [tuple(make_splits(TABLE, RATIOS, seed).ids["val_test"]) for seed in range(5)]
    assert len(set(seen)) == 5


@pytest.mark.parametrize(("labels", "missing"), [([0] * 20, 1), ([1] * 20, 0), ([0] * 17 + [1] * 3, 1)])
def test_one_class_only_or_too_few_groups(labels, missing):
    with pytest.raises(SplitError, match=rf"Label {missing} has \d groups.*each of the 4 splits needs at least one"):
        make_splits(table_of([2] * 20, labels), RATIOS, 0)


def test_round_trip(tmp_path):
    made = make_splits(TABLE, RATIOS, 7)
    made.write(tmp_path / "splits.json")
    content = json.loads((tmp_path / "splits.json").read_text())
    assert list(content) == ["version", "strategy", "seed", "ratios", "fingerprint", "splits", "set_aside"]
    assert content["version"] == 1
    read = read_splits(tmp_path / "splits.json", TABLE)
    assert read.is_ours
    assert (read.ids, read.ratios, read.seed, read.strategy) == (made.ids, RATIOS, 7, "sequence")
    check_splits(read, TABLE)


def users_file(tmp_path, entry_of, **changes):
    """A user's own splits.json with the rows of `make_splits` in the form that `entry_of(row)` gives."""
    names = make_splits(TABLE, RATIOS, 0).names_by_row(TABLE)
    lists = {name: [entry_of(int(row)) for row in np.flatnonzero(names == name)] for name in SPLIT_NAMES}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(lists | changes))
    return path


FORMS = {
    "file names": lambda row: str(TABLE.filenames[row]),
    "base names": lambda row: f"{row:04d}.jpg",
    "other folder": lambda row: f"/home/me/data/{row:04d}.jpg",
    "row numbers": lambda row: row,
    "objects": lambda row: {"filename": f"{row:04d}.jpg"},
    "objects with 0/1": lambda row: {"filename": f"{row:04d}.jpg", "label": int(TABLE.labels[row])},
    "objects with names": lambda row: {"filename": f"{row:04d}.jpg", "label": ["None", "Roadwork"][TABLE.labels[row]]},
}


@pytest.mark.parametrize("form", FORMS)
def test_users_forms(tmp_path, form):
    splits = read_splits(users_file(tmp_path, FORMS[form]), TABLE, {"None": 0, "Roadwork": 1})
    assert splits.ids == {k: list(v) for k, v in make_splits(TABLE, RATIOS, 0).ids.items()}
    assert not splits.is_ours
    assert splits.set_aside == []
    check_splits(splits, TABLE)


def test_ids_that_are_numbers_go_before_row_numbers(tmp_path):
    ids = np.array([str(1000 + i) for i in range(len(TABLE))], dtype=object)
    table = SampleTable(ids, TABLE.filenames, TABLE.labels, TABLE.gps, TABLE.sequence_ids, TABLE.slices)
    splits = read_splits(users_file(tmp_path, lambda row: 1000 + row), table)
    assert check_splits(splits, table).rows["train"] > 0
    assert splits.ids["train"][0].startswith("1")


def test_rows_in_no_list_are_set_aside(tmp_path):
    train = [i for i in make_splits(TABLE, RATIOS, 0).ids["train"] if i not in ("photos/0000.jpg", "photos/0001.jpg")]
    splits = read_splits(users_file(tmp_path, FORMS["file names"], train=train), TABLE)
    report = check_splits(splits, TABLE)
    n_dropped = len(TABLE) - sum(report.rows.values())
    assert len(splits.set_aside) == n_dropped
    assert "set aside" in str(report) or n_dropped == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"val_test": ["photos/9999.jpg"]},
            r"names 1 rows that the data lacks.*val_test: 'photos/9999.jpg'.*file names",
        ),
        ({"val_test": [9999]}, r"val_test: 9999"),
        ({"val_test": [-1]}, r"val_test: -1"),
        ({"val_test": [True]}, r"val_test: True"),
        ({"val_test": [{"file": "a"}]}, r"val_test: \{'file': 'a'\}"),
        ({"val_test": [{"filename": "0001.jpg", "label": 1}]}, r"the label of photos/0001.jpg in the data is 0"),
        ({"val_test": [{"filename": "0001.jpg", "label": "works"}]}, r"the label of photos/0001.jpg in the data is 0"),
        ({"val_test": 3}, r"has no list for val_test"),
        ({"test": []}, r"names the splits train, val_select, val_calib, val_test, test\. Needed"),
    ],
)
def test_users_mistakes(tmp_path, changes, says):
    # Rows 1 and 2 are a sequence of label 1: give the second sequence label 0 so that the message is certain.
    labels = TABLE.labels.copy()
    labels[1] = 0
    table = SampleTable(TABLE.ids, TABLE.filenames, labels, TABLE.gps, TABLE.sequence_ids, TABLE.slices)
    with pytest.raises(SplitError, match=says):
        read_splits(users_file(tmp_path, FORMS["file names"], **changes), table, {"None": 0, "Roadwork": 1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "cannot be read as JSON"),
        ("[1]", "holds a list, not an object"),
        ("{}", "names the splits nothing"),
        ('{"version": 2, "splits": {}}', "has version 2; this roadwork reads version 1"),
        ('{"version": 1, "splits": [[1]]}', "names the splits"),
        ('{"splits": {}}', "has version None"),
    ],
)
def test_files_that_are_no_splits(tmp_path, text, says):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(SplitError, match=says):
        read_splits(tmp_path / "splits.json", TABLE)
