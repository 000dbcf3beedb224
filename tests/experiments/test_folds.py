"""Folds of whole groups and of whole regions."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from roadwork.core.errors import ConfigError, SplitError
from roadwork.data.grouping.groups import Groups
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import ExtraRows, SampleTable
from roadwork.experiments.folds import find_across, find_regions, make_fold_splits, make_folds, make_region_splits


def make_table(labels, slices=None, gps=None):
    n = len(labels)
    return SampleTable(
        ids=np.array([f"r{i:03d}" for i in range(n)], dtype=object),
        filenames=np.array([f"{i}.jpg" for i in range(n)], dtype=object),
        labels=np.asarray(labels, dtype=np.int64),
        gps=np.full((n, 2), np.nan) if gps is None else gps,
        sequence_ids=np.full(n, "", dtype=object),
        slices=pd.DataFrame(slices or {}, index=range(n)),
    )


def world(n_groups=40, seed=0):
    """Groups of 1 to 9 rows, a third of the groups with Roadwork."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10, n_groups)
    labels = np.repeat(np.arange(n_groups) % 3 == 0, sizes).astype(int)
    return make_table(labels), np.repeat([f"g{i}" for i in range(n_groups)], sizes).astype(object)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=12, max_size=40),
    label_seed=st.integers(0, 2**32 - 1),
    seed=st.integers(0, 2**32 - 1),
    n_folds=st.integers(2, 6),
)
def test_groups_stay_whole_and_every_row_has_a_fold(sizes, label_seed, seed, n_folds):
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes).astype(object)
    labels = np.random.default_rng(label_seed).integers(0, 2, len(groups))
    try:
        folds = make_folds(make_table(labels), groups, n_folds, seed)
    except SplitError:
        assume(False)
    assert set(folds) == set(range(n_folds))
    assert pd.Series(folds).groupby(groups).nunique().max() == 1
    assert pd.Series(labels).groupby(folds).nunique().min() == 2


def test_folds_are_stratified():
    table, groups = world(200)
    folds = make_folds(table, groups, 5, 0)
    shares = pd.Series(table.labels).groupby(folds).mean()
    assert (shares - table.labels.mean()).abs().max() < 0.03
    assert (np.bincount(folds) / len(table)) == pytest.approx([0.2] * 5, abs=0.03)


def test_folds_ignore_the_order_of_rows_and_groups():
    table, groups = world()
    folds = dict(zip(table.ids, make_folds(table, groups, 5, 3), strict=True))
    order = np.random.default_rng(1).permutation(len(table))
    shuffled = make_folds(table.take(order), groups[order], 5, 3)
    assert shuffled.tolist() == [folds[row_id] for row_id in table.ids[order]]
    assert make_folds(table, groups, 5, 4).tolist() != list(folds.values())


def test_too_few_groups_for_the_folds():
    table = make_table([0, 0, 0, 1, 1, 0])
    groups = np.array(["a", "b", "c", "d", "d", "e"], dtype=object)
    with pytest.raises(SplitError, match=r"\b2 groups.*\b4 .*None.*\b1 .*Roadwork"):
        make_folds(table, groups, 2, 0)
    with pytest.raises(ConfigError, match=r"--folds.*\b1\b"):
        make_folds(table, groups, 1, 0)


def test_few_regions_get_a_fold_each_and_groups_go_by_majority():
    regions = np.array(["rome", "rome", "oslo", "", "oslo", "oslo", "lima", "lima"], dtype=object)
    groups = np.array(["a", "a", "a", "a", "b", "c", "d", "e"], dtype=object)
    table = make_table([0, 1, 0, 1, 0, 1, 0, 1])
    folds = make_folds(table, groups, 5, 0, regions)
    assert folds.tolist() == [2, 2, 2, 2, 1, 1, 0, 0]  # by name: lima, oslo, rome


def test_groups_without_region_share_a_fold_and_ties_go_by_name():
    regions = np.array(["rome", "oslo", "oslo", "rome", "rome", "", ""], dtype=object)
    groups = np.array(["a", "a", "b", "c", "c", "d", "e"], dtype=object)
    folds = make_folds(make_table([0, 1, 0, 1, 0, 1, 0]), groups, 3, 0, regions)
    assert folds.tolist() == [1, 1, 1, 2, 2, 0, 0]


def test_many_regions_are_grouped_and_stay_whole():
    rng = np.random.default_rng(0)
    regions = np.repeat([f"city{i}" for i in range(12)], 20).astype(object)
    groups = np.arange(240).astype(str).astype(object)
    folds = make_folds(make_table(rng.integers(0, 2, 240)), groups, 4, 0, regions)
    assert set(folds) == set(range(4))
    assert pd.Series(folds).groupby(regions).nunique().max() == 1


def test_a_region_with_one_label_only():
    regions = np.array(["rome", "rome", "oslo", "oslo"], dtype=object)
    with pytest.raises(SplitError, match=r"Fold 1 of 2.*\b2 .*None.*\b0 .*Roadwork.*--by region"):
        make_folds(make_table([0, 1, 0, 0]), np.array(list("abcd"), dtype=object), 5, 0, regions)


def test_regions_come_from_the_column_or_from_the_cells():
    gps = np.array([[52.37, 4.90], [52.38, 4.91], [35.68, 139.65], [np.nan, np.nan]])
    table = make_table([0, 1, 0, 1], {"city": ["Amsterdam", "Amsterdam", None, "Tokyo"]}, gps)
    assert find_regions(table, "city").tolist() == ["Amsterdam", "Amsterdam", "", "Tokyo"]
    cells = find_regions(table, None)
    assert cells[0] == cells[1] != cells[2]
    assert cells[3] == ""
    with pytest.raises(ConfigError, match=r"region_column.*'town'.*city"):
        find_regions(table, "town")


def test_regions_that_are_numbers_or_nowhere():
    table = make_table([0, 1, 0], {"zone": [1.0, np.nan, 12.0], "empty": ["", None, " "]}, np.full((3, 2), np.nan))
    assert find_regions(table, "zone").tolist() == ["1", "", "12"]
    with pytest.raises(ConfigError, match=r"GPS.*zone, empty.*--by"):
        find_regions(table, None)
    with pytest.raises(ConfigError, match=r"data\.splitting\.region_column=empty"):
        find_regions(table, "empty")


def splits_of(table, groups):
    """val_test has every eighth group, nothing names the rows of group g1."""
    numbers = np.array([int(name[1:]) for name in groups])
    names = np.where(numbers % 8 == 3, "val_test", np.where(numbers % 4 == 2, "val_select", "train"))
    names[(numbers % 8 == 5)] = "val_calib"
    names[numbers == 1] = ""
    return Splits(
        {name: table.ids[names == name].tolist() for name in ("train", "val_select", "val_calib", "val_test")}
    )


def test_fold_splits_hold_out_each_row_once_and_never_val_test():
    table, names = world(60)
    splits = splits_of(table, names)
    set_aside = names == "g8"
    groups = Groups(names, set_aside, np.empty((0, 2), dtype=np.int64), 1.0)
    made = make_fold_splits(table, groups, splits, 5, seed=0)
    test = set(splits.ids["val_test"])
    untouched = {*table.ids[set_aside], *table.ids[names == "g1"]}
    assert len(made) == 5
    held_out = [row_id for fold in made for row_id in fold.ids["val_calib"]]
    assert sorted(held_out) == sorted(set(table.ids) - test - untouched)
    group_of = dict(zip(table.ids, names, strict=True))
    for fold in made:
        assert fold.ids["val_test"] == splits.ids["val_test"]
        assert set(fold.set_aside) == untouched
        assert not fold.is_ours
        seen = [{group_of[row_id] for row_id in ids} for ids in fold.ids.values()]
        assert sum(map(len, seen)) == len(set.union(*seen))  # no group in two splits
        rest = len(fold.ids["train"]) + len(fold.ids["val_select"])
        assert len(fold.ids["val_select"]) / rest == pytest.approx(0.15, abs=0.05)
        by_id = dict(zip(table.ids, table.labels, strict=True))
        for ids in fold.ids.values():
            assert {by_id[row_id] for row_id in ids} == {0, 1}


def test_fold_splits_of_very_few_groups():
    table = make_table([0, 1, 0, 1, 0, 1])
    names = np.array(["a", "a", "b", "b", "c", "c"], dtype=object)
    groups = Groups(names, np.zeros(6, dtype=bool), np.empty((0, 2), dtype=np.int64), 0.0)
    splits = Splits(
        {"train": table.ids[:4].tolist(), "val_select": [], "val_calib": [], "val_test": table.ids[4:].tolist()}
    )
    with pytest.raises(SplitError, match=r"one group.*label"):
        make_fold_splits(table, groups, splits, 2, seed=0)


def regional(cities, labels_of=lambda city: [0, 1]):
    """Ten groups of two rows per city, in splits; the last city's rows are in val_test."""
    city = np.repeat(cities, 20).astype(object)
    labels = np.concatenate([np.tile(labels_of(name), 20)[:20] for name in cities])
    table = make_table(labels, {"city": city})
    names = np.array([f"{name}-{number % 20 // 2}" for number, name in enumerate(city)], dtype=object)
    test = city == cities[-1]
    ids = {"train": table.ids[~test], "val_select": [], "val_calib": [], "val_test": table.ids[test]}
    groups = Groups(names, np.zeros(len(table), bool), np.empty((0, 2), dtype=np.int64), 1.0)
    return table, groups, Splits({name: list(own) for name, own in ids.items()})


def made_across(table, groups, splits):
    regions = find_across(table, "city")
    return make_region_splits(table, groups, splits, seed=0, regions=regions, column="city")


def cities_of(table, ids):
    return set(table.slices["city"][np.isin(table.ids, list(ids))])


def test_each_region_is_held_out_and_val_test_never():
    table, groups, splits = regional(["a", "b", "c", "d"])
    made = made_across(table, groups, splits)
    assert [cities_of(table, own.ids["val_calib"]) for own in made] == [{"a"}, {"b"}, {"c"}]
    for own in made:
        assert "d" not in cities_of(table, {*own.ids["train"], *own.ids["val_select"], *own.ids["val_calib"]})
        assert not cities_of(table, own.ids["train"]) & cities_of(table, own.ids["val_calib"])


def test_regions_with_one_label_share_a_fold_with_others():
    labels_of = {"a": [0, 1], "b": [0, 1], "c": [0, 0], "d": [1, 1], "e": [0, 1]}
    table, groups, splits = regional(list(labels_of), labels_of.get)
    made = made_across(table, groups, splits)
    assert len(made) >= 2
    held_out = [own.ids["val_calib"] for own in made]
    assert sorted(city for ids in held_out for city in cities_of(table, ids)) == ["a", "b", "c", "d"]
    assert all(set(table.labels[np.isin(table.ids, ids)]) == {0, 1} for ids in held_out)


def test_two_regions_are_too_few():
    with pytest.raises(ConfigError, match=r"--across city has 2 regions.*a \(20 rows\), b \(20 rows\)"):
        made_across(*regional(["a", "b", "c"]))
    with pytest.raises(ConfigError, match=r"--across .*'town'.*city"):
        find_across(regional(["a", "b", "c"])[0], "town")


def test_training_only_rows_of_a_held_out_region_are_set_aside():
    table, groups, splits = regional(["a", "b", "c", "d"])
    extra = table.ids[18:20].tolist()  # of city a
    table = replace(table, extra=ExtraRows(frozenset(extra), frozenset(extra)))
    splits = Splits(splits.ids | {"train": [row_id for row_id in splits.ids["train"] if row_id not in extra]})
    made = made_across(table, groups, splits)
    assert [set(extra) <= set(own.set_aside) for own in made] == [True, False, False]
