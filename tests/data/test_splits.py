"""Splits are stratified and reproducible; splits files round-trip, and users' own files are read."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from roadwork.core.errors import SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.splits import Splits, make_splits, read_splits
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES, SplittingSettings

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


def split(table, seed=0, **changes):
    groups = Groups(table.sequence_ids, np.zeros(len(table), dtype=bool), np.empty((0, 2), dtype=np.int64), 1.5)
    return make_splits(table, groups, RATIOS, SplittingSettings(seed=seed, **changes))


TABLE = table_of([1 + i % 5 for i in range(80)])


def test_splits_of_single_rows_are_exact():
    table = table_of([1] * 1000, labels=[int(i % 5 == 0) for i in range(1000)])
    splits = split(table)
    names = splits.names_by_row(table)
    assert splits.shares == RATIOS
    assert [table.labels[names == name].mean() for name in SPLIT_NAMES] == pytest.approx([0.2] * 4, abs=0.001)


def test_independent_of_row_order_and_deterministic():
    order = np.random.default_rng(0).permutation(len(TABLE))
    ids = split(TABLE, 42).ids
    assert split(TABLE.take(order), 42).ids == ids
    assert split(TABLE, 42).ids == ids


@pytest.mark.parametrize("sizes", [[1 + i % 5 for i in range(80)], list(range(1, 61))])
def test_zero_is_a_seed(sizes):
    seen = [tuple(split(table_of(sizes), seed).ids["val_test"]) for seed in range(5)]
    assert len(set(seen)) == 5


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0] * 20, "[Ll]abel 0 .*in 20 .*label 1 in 0"),
        ([1] * 20, "[Ll]abel 0 .*in 0 .*label 1 in 20"),
        ([0] * 17 + [1] * 3, r"label 1 in 3 \(0 .*4 splits"),
    ],
)
def test_one_class_only_or_too_few_groups(labels, says):
    with pytest.raises(SplitError, match=says):
        split(table_of([2] * 20, labels))


def test_round_trip(tmp_path):
    made = split(TABLE, 7)
    made.write(tmp_path / "splits.json")
    content = json.loads((tmp_path / "splits.json").read_text())
    keys = ["version", "strategy", "seed", "ratios", "fingerprint", "splits", "set_aside", "buffer_km", "shares"]
    assert list(content) == keys
    assert content["version"] == 1
    read = read_splits(tmp_path / "splits.json", TABLE)
    assert read.is_ours
    assert (read.ids, read.ratios, read.seed, read.strategy) == (made.ids, RATIOS, 7, "geographic")
    assert (read.shares, read.buffer_km) == (made.shares, 1.5)


def test_file_of_an_older_roadwork(tmp_path):
    split(TABLE, 7).write(tmp_path / "splits.json")
    content = json.loads((tmp_path / "splits.json").read_text()) | {"strategy": "sequence"}
    del content["buffer_km"], content["shares"]
    (tmp_path / "splits.json").write_text(json.dumps(content))
    read = read_splits(tmp_path / "splits.json", TABLE)
    assert (read.strategy, read.buffer_km, read.shares) == ("sequence", None, {})


def test_only_the_random_strategy_leaks_by_design():
    assert split(TABLE, strategy="random").leaks_by_design
    assert not split(TABLE).leaks_by_design
    assert not Splits({}).leaks_by_design


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strategy", 3),
        ("seed", "7"),
        ("ratios", [0.6]),
        ("ratios", {"train": "much"}),
        ("ratios", {"test": 0.1}),
        ("fingerprint", None),
        ("set_aside", {}),
        ("buffer_km", -1),
        ("buffer_km", True),
        ("buffer_km", math.inf),
        ("shares", {"train": None}),
    ],
)
def test_headers_of_the_wrong_kind(tmp_path, key, value):
    split(TABLE).write(tmp_path / "splits.json")
    content = json.loads((tmp_path / "splits.json").read_text()) | {key: value}
    (tmp_path / "splits.json").write_text(json.dumps(content))
    with pytest.raises(SplitError, match=rf"splits\.json.*{key}.*`roadwork split`"):
        read_splits(tmp_path / "splits.json", TABLE)


def users_file(tmp_path, entry_of, **changes):
    """A user's own splits.json with the rows of `make_splits` in the form that `entry_of(row)` gives."""
    names = split(TABLE).names_by_row(TABLE)
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
def test_user_split_formats(tmp_path, form):
    splits = read_splits(users_file(tmp_path, FORMS[form]), TABLE, {"None": 0, "Roadwork": 1})
    assert splits.ids == {k: list(v) for k, v in split(TABLE).ids.items()}
    assert not splits.is_ours
    assert splits.set_aside == []


def test_numeric_ids_precede_row_numbers(tmp_path):
    ids = np.array([str(1000 + i) for i in range(len(TABLE))], dtype=object)
    table = SampleTable(ids, TABLE.filenames, TABLE.labels, TABLE.gps, TABLE.sequence_ids, TABLE.slices)
    splits = read_splits(users_file(tmp_path, lambda row: 1000 + row), table)
    assert splits.ids["train"][0].startswith("1")


def test_rows_in_no_list_are_set_aside(tmp_path):
    ids = split(TABLE).ids["train"]
    splits = read_splits(users_file(tmp_path, FORMS["file names"], train=ids[2:]), TABLE)
    assert splits.set_aside == ids[:2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"val_test": ["photos/9999.jpg"]},
            r"\b1 rows.*val_test: 'photos/9999\.jpg'",
        ),
        ({"val_test": [9999]}, r"val_test: 9999"),
        ({"val_test": [-1]}, r"val_test: -1"),
        ({"val_test": [True]}, r"val_test: True"),
        ({"val_test": [{"file": "a"}]}, r"val_test: \{'file': 'a'\}"),
        ({"val_test": [{"filename": "0001.jpg", "label": 1}]}, r"label.*photos/0001\.jpg.*\b0\b"),
        ({"val_test": [{"filename": "0001.jpg", "label": "works"}]}, r"label.*photos/0001\.jpg.*\b0\b"),
        ({"val_test": 3}, r"list.*val_test"),
        ({"test": []}, r"train, val_select, val_calib, val_test, test\b"),
    ],
)
def test_user_split_mistakes_are_rejected(tmp_path, changes, says):
    # Rows 1 and 2 are a sequence of label 1: give the second sequence label 0 so that the message is certain.
    labels = TABLE.labels.copy()
    labels[1] = 0
    table = SampleTable(TABLE.ids, TABLE.filenames, labels, TABLE.gps, TABLE.sequence_ids, TABLE.slices)
    with pytest.raises(SplitError, match=says):
        read_splits(users_file(tmp_path, FORMS["file names"], **changes), table, {"None": 0, "Roadwork": 1})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ("[1]", "list.*object"),
        ("{}", "splits.*nothing"),
        ('{"version": 2, "splits": {}}', "version 2.*version 1"),
        ('{"version": 1, "splits": [[1]]}', "splits"),
        ('{"splits": {}}', "version None"),
    ],
)
def test_malformed_splits_files_are_rejected(tmp_path, text, says):
    (tmp_path / "splits.json").write_text(text)
    with pytest.raises(SplitError, match=says):
        read_splits(tmp_path / "splits.json", TABLE)
