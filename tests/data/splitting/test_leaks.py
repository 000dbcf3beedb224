"""Every leak is found, named and counted without comparing all pairs; nothing else is reported."""

import time
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.data.splitting.leaks import MAX_EXAMPLES, Neighbours, find_leaks, format_km
from roadwork.data.table import SampleTable
from roadwork.settings import SPLIT_NAMES

NO_DUPLICATES = np.empty((0, 2), dtype=np.int64)
NOWHERE = (np.nan, np.nan)


def table_of(gps, sequences=None):
    n = len(gps)
    names = np.array([f"{i:04d}.jpg" for i in range(n)], dtype=object)
    return SampleTable(
        ids=names,
        filenames=names,
        labels=np.arange(n) % 2,
        gps=np.asarray(gps, dtype=float).reshape(n, 2),
        sequence_ids=np.array(sequences if sequences is not None else [""] * n, dtype=object),
        slices=pd.DataFrame(index=range(n)),
    )


def leaks_of(table, names, duplicates=NO_DUPLICATES, buffer_km=1.0):
    names = np.array(names, dtype=object)
    found = find_leaks(table, names, np.asarray(duplicates).reshape(-1, 2), Neighbours(table, names), buffer_km)
    return {leak.kind: leak for leak in found}


def test_clean_splits_have_no_leak():
    table = table_of([(52, 13), (52, 13.1), (48, 2), NOWHERE, NOWHERE], ["a", "a", "b", "c", ""])
    assert leaks_of(table, ["train", "train", "val_test", "val_select", "val_calib"], [(0, 1)]) == {}


def test_shared_sequence_is_reported_with_files_and_distance():
    table = table_of([(0, 0), (0, 1), (0, 0.02), NOWHERE, NOWHERE], ["drive7", "other", "drive7", "dark", "dark"])
    leak = leaks_of(table, ["train", "train", "val_test", "val_select", "val_calib"])["sequence"]
    assert leak.count == 2
    near, dark = leak.examples
    assert str(near) == "0000.jpg (train) and 0002.jpg (val_test), 2.2 km apart, of sequence drive7"
    assert str(dark) == "0003.jpg (val_select) and 0004.jpg (val_calib), distance unknown, of sequence dark"


def test_rows_without_sequence_or_split_do_not_leak():
    table = table_of([NOWHERE] * 4, ["", "", "a", "a"])
    assert leaks_of(table, ["train", "val_test", "train", ""], [(2, 3)]) == {}


def test_near_duplicates_across_splits_are_named():
    table = table_of([(0, 0), (50, 50), (0, 5), NOWHERE])
    names = ["train", "val_test", "train", "val_calib"]
    assert leaks_of(table, names, [(0, 2)]) == {}
    leaks = leaks_of(table, names, [(0, 2), (0, 1)])
    assert list(leaks) == ["near_duplicate"]
    assert str(leaks["near_duplicate"]) == (
        "Scenes with near-duplicate images in more than one split: 1, such as "
        "0000.jpg (train) and 0001.jpg (val_test), 7,293.9 km apart"
    )
    both = leaks_of(table, names, [(3, 2), (0, 1)])["near_duplicate"]
    assert both.count == 2
    assert str(both.examples[1]) == "0003.jpg (val_calib) and 0002.jpg (train), distance unknown"


def test_near_duplicates_linked_by_an_unassigned_image():
    table = table_of([(0, 0), (0, 5), (0, 10)])
    leak = leaks_of(table, ["train", "", "val_test"], [(0, 1), (1, 2)])["near_duplicate"]
    assert leak.count == 1
    assert leak.examples[0].filenames == ("0000.jpg", "0002.jpg")
    assert leaks_of(table, ["train", "", ""], [(0, 1), (1, 2)]) == {}


@pytest.mark.parametrize(("buffer_km", "count"), [(0.29, 0), (0.31, 2), (0, 0)])
def test_rows_closer_than_the_buffer(buffer_km, count):
    north = np.rad2deg(0.3 / 6371.0088)  # 300 m
    table = table_of([(60, 10), (60 + north, 10), (60, 11), (10, 10)])
    leaks = leaks_of(table, ["train", "val_test", "train", "val_test"], buffer_km=buffer_km)
    if not count:
        assert leaks == {}
    else:
        assert leaks["distance"].count == count
        assert str(leaks["distance"]) == (
            "Rows closer than 310 m to another split: 2, such as 0000.jpg (train) and 0001.jpg (val_test), 300 m apart"
        )


def test_across_the_antimeridian_and_the_pole():
    table = table_of([(0, 179.999), (0, -179.999), (90, 0), (89.999, 180), (45, 0)])
    leaks = leaks_of(table, ["train", "val_test", "train", "val_select", "train"])
    assert {pair.filenames for pair in leaks["distance"].examples} == {
        ("0000.jpg", "0001.jpg"),
        ("0002.jpg", "0003.jpg"),
    }


def test_distance_examples_exclude_other_leak_kinds():
    """Frames of a sequence in two splits are the closest rows, but are reported as a sequence."""
    near, far = 1e-5, 5e-3
    table = table_of([(0, 0), (0, near), (30, 0), (30, near), (60, 0), (60, far)], ["s", "s", "", "", "x", "y"])
    leaks = leaks_of(table, ["train", "val_test"] * 3, [(2, 3)])
    assert leaks["distance"].count == 6
    assert [pair.filenames for pair in leaks["distance"].examples] == [("0004.jpg", "0005.jpg")]
    only_known = leaks_of(table.take(np.arange(4)), ["train", "val_test"] * 2, [(2, 3)])
    assert len(only_known["distance"].examples) == 2


coordinates = st.one_of(
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    st.tuples(st.floats(51.99, 52.01), st.floats(12.99, 13.01)),
    st.sampled_from([(0.0, 180.0), (0.0, -180.0), (90.0, 0.0), (90.0, 77.0), (-90.0, 5.0), (52.0, 13.0), NOWHERE]),
)
rows = st.lists(st.tuples(coordinates, st.sampled_from(["", *SPLIT_NAMES])), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(rows=rows, buffer_km=st.sampled_from([0.0, 0.1, 1.0, 500.0]))
def test_counts_and_closest_pairs_match_brute_force(rows, buffer_km):
    gps, names = [row[0] for row in rows], np.array([row[1] for row in rows], dtype=object)
    table = table_of(gps)
    neighbours = Neighbours(table, names)
    apart = {}
    for i, j in combinations(range(len(rows)), 2):
        if names[i] and names[j] and names[i] != names[j] and not np.isnan([*gps[i], *gps[j]]).any():
            apart[i, j] = great_circle(gps[i], gps[j]).km
    nearest = [min((km for pair, km in apart.items() if i in pair), default=np.inf) for i in range(len(rows))]
    np.testing.assert_allclose(neighbours.km, nearest, rtol=1e-6, atol=1e-6)
    by_splits = {}
    for (i, j), km in apart.items():
        by_splits.setdefault(frozenset((names[i], names[j])), []).append(km)
    closest = {frozenset(names[list(pair)]): great_circle(*(gps[i] for i in pair)).km for pair in neighbours.closest}
    assert closest == pytest.approx({splits: min(kms) for splits, kms in by_splits.items()}, rel=1e-6, abs=1e-6)
    if all(abs(km - buffer_km) > 1e-6 for km in nearest) or buffer_km == 0:
        leaks = leaks_of(table, names, buffer_km=buffer_km)
        count = leaks["distance"].count if leaks else 0
        assert count == sum(km < buffer_km for km in nearest)


@pytest.mark.parametrize("spread", [90.0, 0.1, 0.0], ids=["globe", "city", "one point"])
def test_hundred_thousand_rows_take_seconds(spread):
    rng = np.random.default_rng(0)
    n = 100_000
    gps = np.stack([rng.uniform(-spread, spread, n), rng.uniform(-2 * spread, 2 * spread, n)], axis=1)
    names = rng.choice(SPLIT_NAMES, n).astype(object)
    table = table_of(gps, [f"s{i // 4}" for i in range(n)])
    started = time.perf_counter()
    leaks = leaks_of(table, names, [(0, i) for i in range(1, 1000)])
    assert time.perf_counter() - started < 30  # 1 s on a quiet core; looking at all pairs takes many minutes
    assert len(leaks["distance"].examples) == MAX_EXAMPLES
    assert len(Neighbours(table, names).closest) == 6


def test_distances_are_formatted_for_readers():
    assert [format_km(km) for km in (0, 0.3, 0.9994, 0.9996, 12.34, 12345)] == [
        *("0 m", "300 m", "999 m", "1.0 km", "12.3 km", "12,345.0 km")
    ]
