"""Groups never leak by sequence, duplicate or distance, for any data and any row order."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from roadwork.core.errors import RoadworkError
from roadwork.data.grouping.groups import Groups, make_groups
from roadwork.data.splitting.check import check_splits
from roadwork.data.splitting.splits import make_splits
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import haversine_km
from roadwork.settings import SplittingSettings

RATIOS = {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
NO_PAIRS = np.empty((0, 2), dtype=np.int64)
KM = 1 / 111.195  # degrees of latitude


def table_of(gps, sequences):
    n = len(gps)
    ids = np.array([f"photo-{i:05d}" for i in range(n)], dtype=object)
    return SampleTable(
        ids=ids,
        filenames=ids,
        labels=np.zeros(n, dtype=np.int64),
        gps=np.asarray(gps, dtype=np.float64).reshape(-1, 2),
        sequence_ids=np.array(sequences, dtype=object),
        slices=pd.DataFrame(index=range(n)),
    )


@st.composite
def worlds(draw):
    """(table, duplicates): places of 1 to 360 sequences, some of one row; rows without GPS or without sequence."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centers = draw(st.lists(st.sampled_from([(52.5, 13.4), (0, 180), (90, 0), (-33.9, 151.2)]), min_size=1, max_size=3))
    gps, sequences = [], []
    for latitude, longitude in centers:
        n = draw(st.sampled_from([1, 3, 60, 120]))
        extent = draw(st.sampled_from([0.0, 2.0, 15.0, 40.0])) * KM
        for _ in range(n):
            start = np.array([latitude, longitude]) + rng.uniform(-extent, extent, 2)
            length = rng.integers(1, 5)
            drive = start + rng.normal(0, 0.1 * KM, (length, 2)).cumsum(axis=0)
            drive[:, 0] = np.where(drive[:, 0] > 90, 180 - drive[:, 0], drive[:, 0])
            gps.append(np.c_[drive[:, 0], (drive[:, 1] + 180) % 360 - 180])
            sequences += [f"drive-{len(gps):04d}"] * length
    gps, sequences = np.concatenate(gps), np.array(sequences, dtype=object)
    gps[rng.random(len(gps)) < draw(st.sampled_from([0, 0.1]))] = np.nan
    sequences[rng.random(len(gps)) < draw(st.sampled_from([0, 0.2]))] = ""
    n_pairs = draw(st.sampled_from([0, 3]))
    return table_of(gps, sequences), rng.integers(0, len(gps), (n_pairs, 2))


def assert_no_leak(table: SampleTable, groups: Groups, buffer_km: float):
    kept = np.flatnonzero(~groups.set_aside)
    names = groups.names[kept].astype(str)
    is_other = names[:, None] != names[None]
    distances = haversine_km(table.gps[kept][:, None], table.gps[kept][None])
    assert not (is_other & (distances < buffer_km)).any()
    sequences = table.sequence_ids[kept].astype(str)
    assert not (is_other & (sequences[:, None] == sequences[None]) & (sequences != "")).any()
    for a, b in groups.duplicates:
        assert groups.names[a] == groups.names[b]
        assert groups.set_aside[a] == groups.set_aside[b]


@settings(max_examples=40, deadline=None)
@given(
    world=worlds(), buffer_km=st.sampled_from([0.0, 0.1, 1.0, 5.0]), max_group_share=st.sampled_from([0.05, 0.3, 1.0])
)
def test_groups_never_leak_or_lose_rows(world, buffer_km, max_group_share):
    table, duplicates = world
    groups = make_groups(table, buffer_km=buffer_km, max_group_share=max_group_share, duplicates=duplicates)
    assert len(groups.names) == len(groups.set_aside) == len(table)
    assert all(isinstance(name, str) and name for name in groups.names)
    assert groups.set_aside.mean() <= 0.5
    assert_no_leak(table, groups, buffer_km)
    if max_group_share == 1.0:
        assert not groups.set_aside.any()
        assert groups.notes == ()


@settings(max_examples=60, deadline=None)
@given(
    world=worlds(),
    buffer_km=st.sampled_from([0.0, 1.0, 5.0]),
    strategy=st.sampled_from(["geographic", "region_holdout", "temporal"]),
    seed=st.integers(0, 99),
)
def test_splits_never_leak_or_lose_rows_for_any_dataset(world, buffer_km, strategy, seed):
    """The complete grouping, checked for every pair of rows."""
    table, duplicates = world
    rng = np.random.default_rng(seed)
    days = pd.Timestamp("2025-01-01") + pd.to_timedelta(rng.integers(0, 100, len(table)), unit="D")
    slices = pd.DataFrame({"captured_at": days.astype(str), "city": np.where(table.gps[:, 0] > 0, "north", "south")})
    table = replace(table, labels=rng.integers(0, 2, len(table)), slices=slices)
    groups = make_groups(table, buffer_km=buffer_km, max_group_share=0.05, duplicates=duplicates)
    splitting = SplittingSettings(
        strategy=strategy, seed=seed, buffer_km=buffer_km, regions=["south"], region_column="city", after="2025-03-20"
    )
    try:
        splits = make_splits(table, groups, RATIOS, splitting)
    except RoadworkError:
        reject()  # too few groups, or none on one side
    names = splits.names_by_row(table).astype(str)
    assert sorted([*itertools.chain(*splits.ids.values()), *splits.set_aside]) == sorted(table.ids)
    assert splits.shares == {name: (names == name).sum() / (names != "").sum() for name in RATIOS}
    in_split = np.flatnonzero(names != "")
    is_across = names[in_split][:, None] != names[in_split][None]
    distances = haversine_km(table.gps[in_split][:, None], table.gps[in_split][None])
    assert not (is_across & (distances < buffer_km)).any()
    sequences = table.sequence_ids[in_split].astype(str)
    assert not (is_across & (sequences[:, None] == sequences[None]) & (sequences != "")).any()
    assert all(names[a] == names[b] for a, b in duplicates if names[a] and names[b])
    report = check_splits(splits, table, groups)  # which finds the same
    assert report.leaks == ()
    assert report.rows == {name: (names == name).sum() for name in RATIOS}


@settings(max_examples=20, deadline=None)
@given(world=worlds(), seed=st.integers(0, 5))
def test_order_of_the_rows_changes_nothing(world, seed):
    table, duplicates = world
    order = np.random.default_rng(seed).permutation(len(table))
    new_row = np.argsort(order)
    groups = make_groups(table, buffer_km=1.0, max_group_share=0.05, duplicates=duplicates)
    moved = make_groups(table.take(order), buffer_km=1.0, max_group_share=0.05, duplicates=new_row[duplicates])
    assert list(moved.names) == list(groups.names[order])
    assert list(moved.set_aside) == list(groups.set_aside[order])
    assert moved.notes == groups.notes


@settings(max_examples=30, deadline=None)
@given(world=worlds())
def test_groups_match_brute_force_connected_components(world):
    table, duplicates = world
    joined = haversine_km(table.gps[:, None], table.gps[None]) < 1.0
    sequences = table.sequence_ids.astype(str)
    joined |= (sequences[:, None] == sequences[None]) & (sequences != "")
    joined[duplicates[:, 0], duplicates[:, 1]] = True
    component = connected_components(joined, directed=False)[1]
    own = [sequence or f"row:{row_id}" for sequence, row_id in zip(table.sequence_ids, table.ids, strict=True)]
    smallest = {c: min(np.array(own, dtype=object)[component == c]) for c in set(component)}
    groups = make_groups(table, buffer_km=1.0, max_group_share=1.0, duplicates=duplicates)
    assert list(groups.names) == [smallest[c] for c in component]


def test_sequence_distance_and_duplicate_links_form_groups():
    gps = [[52, 13], [52 + 0.9 * KM, 13], [10, 10], [np.nan, np.nan], [np.nan, np.nan], [60, 60]]
    table = table_of(gps, ["", "b", "b", "c", "", "d"])
    duplicates = np.array([[3, 4]])
    near = make_groups(table, buffer_km=1.0, max_group_share=1.0, duplicates=duplicates)
    assert list(near.names) == ["b", "b", "b", "c", "c", "d"]
    far = make_groups(table, buffer_km=0.0, max_group_share=1.0, duplicates=duplicates)
    assert list(far.names) == ["row:photo-00000", "b", "b", "c", "c", "d"]
    assert (far.buffer_km, far.duplicates.tolist(), far.set_aside.any()) == (0.0, [[3, 4]], False)


def dense_city(n_drives=2000, extent_km=20.0, rows_per_drive=1):
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, extent_km * KM, (n_drives, 2)) * [1, 1 / np.cos(np.deg2rad(52))] + [52.3, 13.0]
    gps = np.repeat(starts, rows_per_drive, axis=0) + rng.normal(0, 0.01 * KM, (n_drives * rows_per_drive, 2))
    return table_of(gps, np.repeat([f"drive-{i:05d}" for i in range(n_drives)], rows_per_drive))


def test_dense_city_is_divided_with_a_warning():
    city = dense_city()
    groups = make_groups(city, buffer_km=1.0, max_group_share=0.2, duplicates=np.array([[0, 1999], [7, 400]]))
    assert_no_leak(city, groups, 1.0)
    names, sizes = np.unique(groups.names[~groups.set_aside].astype(str), return_counts=True)
    assert len(names) >= 5
    assert all(name.startswith("drive-00000/8") for name in names)
    assert sizes.max() <= 0.2 * len(city)
    assert 0.05 < groups.set_aside.mean() < 0.25  # strips of 1 km on one side of each border
    (note,) = groups.notes
    assert "holds 2,000 of 2,000 rows around latitude 52, longitude 13. It is divided into" in note
    assert f"{groups.set_aside.sum():,} rows within 1 km of another part are set aside" in note


def test_only_rows_near_another_part_are_set_aside():
    city = dense_city()
    groups = make_groups(city, buffer_km=1.0, max_group_share=0.2, duplicates=NO_PAIRS)
    names = groups.names.astype(str)
    for row in np.flatnonzero(groups.set_aside):
        others = (names != names[row]) & ~groups.set_aside
        assert haversine_km(city.gps[row], city.gps[others]).min() < 1.0


@pytest.mark.parametrize(
    ("city", "buffer_km", "reason"),
    [
        (dense_city(100, extent_km=1.0), 1.0, "leave more than half of it in one"),
        (dense_city(400, extent_km=30.0), 400.0, "do not divide it"),
        (dense_city(400, extent_km=30.0), 1000.0, "do not divide it"),
    ],
)
def test_indivisible_group_stays_whole_with_a_warning(city, buffer_km, reason):
    groups = make_groups(city, buffer_km=buffer_km, max_group_share=0.05, duplicates=NO_PAIRS)
    assert set(groups.names) == {"drive-00000"}
    assert not groups.set_aside.any()
    (note,) = groups.notes
    assert "left whole" in note
    assert reason in note
    assert "data.splitting.buffer_km" in note


def test_drives_across_the_whole_city_leave_it_whole():
    """Nearly every drive touches every part, so that dividing would set most of them aside."""
    rng = np.random.default_rng(0)
    n, length = 100, 20
    along = np.linspace(0, 1, length)[:, None]
    ends = rng.uniform(0, 30 * KM, (n, 2, 2))
    gps = np.concatenate([[52.0, 13.0] + start + along * (end - start) for start, end in ends])
    table = table_of(gps, np.repeat([f"drive-{i:03d}" for i in range(n)], length))
    groups = make_groups(table, buffer_km=1.0, max_group_share=0.05, duplicates=NO_PAIRS)
    assert set(groups.names) == {"drive-000"}
    assert not groups.set_aside.any()
    assert "would" in groups.notes[0]


def test_few_sequences_are_not_divided():
    city = dense_city(20, extent_km=20.0, rows_per_drive=10)
    groups = make_groups(city, buffer_km=15.0, max_group_share=0.05, duplicates=NO_PAIRS)
    assert set(groups.names) == {"drive-00000"}
    assert groups.notes == (
        "Left whole with more than 5.0% of the rows, but fewer than 50 sequences: drive-00000 (200 rows).",
    )


def test_no_rows():
    groups = make_groups(table_of([], []), buffer_km=1.0, max_group_share=0.05, duplicates=NO_PAIRS)
    assert len(groups.names) == len(groups.set_aside) == 0


def test_duplicates_bridge_rows_without_any_position():
    table = table_of(np.full((4, 2), np.nan), ["a", "", "", ""])
    table = replace(table, ids=np.array(["z", "y", "x", "w"], dtype=object))
    groups = make_groups(table, buffer_km=1.0, max_group_share=1.0, duplicates=np.array([[1, 2], [2, 0]]))
    assert list(groups.names) == ["a", "a", "a", "row:w"]
