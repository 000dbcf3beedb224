"""Slices of a split and their metrics."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from roadwork.metrics.slices import (
    MIN_GROUPS,
    Slicing,
    find_region,
    find_slicings,
    slice_metrics,
    time_of_day,
    worst_parts,
)
from roadwork.settings import Settings


def make_rows(n_groups=120, seed=0, **columns):
    rng = np.random.default_rng(seed)
    n = 4 * n_groups
    labels = rng.integers(0, 2, n)
    frame = {
        "id": [f"{row}" for row in range(n)], "filename": "x.jpg", "split": "val_test", "label": labels,
        "logit_none": 0.0, "logit_roadwork": 0.0,
        "probability": np.clip(0.5 + 0.3 * (2 * labels - 1) + rng.normal(0, 0.2, n), 0.01, 0.99),
        "latitude": np.nan, "longitude": np.nan, "group": np.repeat(np.arange(n_groups), 4).astype(str),
        "distance_km": rng.choice([10.0, 60.0, 250.0, 900.0, np.nan], n),
    }  # fmt: skip
    return pd.DataFrame(frame | columns)


def titles(frame):
    return [slicing.title for slicing in find_slicings(frame, Settings())[0]]


def test_each_slice_has_its_mcc_and_the_worst_is_first():
    frame = make_rows()
    names = np.array(["good", "bad", "tiny"], dtype=object)[np.minimum(np.arange(480) // 230, 2)]
    flipped = (names == "bad") & (np.arange(480) % 4 == 0)
    frame["probability"] = frame["probability"].where(~flipped, 1 - frame["probability"])
    metrics = slice_metrics(frame, Slicing("which", names), draws=200, seed=0, threshold=0.4)
    assert [part["name"] for part in metrics.parts] == ["bad", "good", "tiny"]
    for part in metrics.parts:
        rows = frame[names == part["name"]]
        assert part["mcc"] == pytest.approx(matthews_corrcoef(rows["label"], rows["probability"] >= 0.4))
        assert part["mcc_low"] <= part["mcc"] <= part["mcc_high"]
        assert (part["n"], part["groups"]) == (len(rows), rows["group"].nunique())
        assert part["small"] == (part["name"] == "tiny")
    assert [part["name"] for _, part in worst_parts([metrics])] == ["bad", "good"]


def test_slice_with_few_groups_is_small():
    frame = make_rows().assign(group="one")
    (part,) = slice_metrics(frame, Slicing("all", np.full(480, "x")), draws=100, seed=0, threshold=0.5).parts
    assert part["n"] > 30
    assert part["groups"] < MIN_GROUPS
    assert part["small"]


def test_slice_with_one_class_is_last_without_mcc():
    frame = make_rows()
    names = np.where(frame["label"] == 1, np.where(np.arange(480) % 2, "only roadwork", "both"), "both").astype(object)
    parts = slice_metrics(frame, Slicing("x", names), draws=100, seed=0, threshold=0.5).parts
    assert [(part["name"], part["mcc"] is None) for part in parts] == [("both", False), ("only roadwork", True)]


def test_distance_slices_are_the_brackets():
    frame = make_rows()
    (slicing,) = find_slicings(frame, Settings())[0]
    for name, kilometres in (("0-50 km", 10), ("50-200 km", 60), ("200-500 km", 250), ("500+ km", 900)):
        assert set(frame["distance_km"][slicing.names == name]) == {kilometres}
    assert frame["distance_km"][slicing.names == "no GPS"].isna().all()


def test_columns_with_many_values_are_omitted():
    rng = np.random.default_rng(0)
    frame = make_rows(
        origin=rng.choice(["real", "generated"], 480), speed=rng.uniform(0, 100, 480),
        note=[f"note {row}" for row in range(480)], lanes=rng.choice([1.0, 2.0, np.nan], 480), camera="one",
    )  # fmt: skip
    slicings, omitted = find_slicings(frame, Settings())
    by_title = {slicing.title: slicing.names for slicing in slicings}
    assert set(by_title["origin"]) == {"real", "generated"}
    assert set(by_title["lanes"]) == {"1", "2", "unknown"}
    assert sorted(np.unique(by_title["speed"], return_counts=True)[1]) == [120] * 4
    assert omitted == ["note (480 values)", "camera (one value)"]


def test_region_is_a_column_or_h3_cells():
    rng = np.random.default_rng(0)
    gps = np.where(np.arange(480)[:, None] % 2, (52.5, 13.4), (48.9, 2.35)) + rng.normal(0, 0.01, (480, 2))
    frame = make_rows().assign(latitude=gps[:, 0], longitude=gps[:, 1])
    assert any(title.startswith("Region (H3 cells") for title in titles(frame))
    city = np.where(np.arange(480) % 2, "Berlin", "Paris")
    assert titles(frame.assign(City=city)).count("City") == 1
    assert not any("H3" in title for title in titles(frame.assign(City=city)))
    region = find_region(pd.DataFrame(index=frame.index), gps)
    cells_of = {name: set(city[region.names == name]) for name in set(region.names)}
    assert all(len(cities) == 1 for cities in cells_of.values())


@pytest.mark.parametrize(
    ("times", "parts", "zone"),
    [
        (["2024-09-08T05:59:31Z", "2024-09-08T06:00:00Z"], ["night, 22 to 6", "morning, 6 to 10"], "UTC"),
        (["2024-09-08 22:00", "2024:09:08 15:59:59"], ["night, 22 to 6", "day, 10 to 16"], "time zone not given"),
        (["2024-09-08T21:59:00+02:00", "2024-09-08T10:00:00Z"], ["evening, 16 to 22", "day, 10 to 16"],
         "mixed time zones"),
    ],
)  # fmt: skip
def test_hour_is_read_as_written(times, parts, zone):
    names, found = time_of_day(pd.Series(times))
    assert (names.tolist(), found) == (parts, zone)


def test_values_that_are_not_times_are_ignored():
    assert time_of_day(pd.Series(["yesterday", "noon"])) is None
    frame = make_rows(captured_at=pd.Timestamp("2024-01-01T08:00:00Z") + pd.to_timedelta(np.arange(480), unit="h"))
    assert "captured_at: hour, UTC" in titles(frame)
