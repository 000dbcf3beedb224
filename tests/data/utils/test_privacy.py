"""Rounded positions and distances are at most half a step off and reveal no more precision."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pandas as pd
import pytest
from geopy.distance import great_circle
from hypothesis import given
from hypothesis import strategies as st

from roadwork.data.utils.privacy import (
    number_cells,
    position_columns,
    round_distances,
    round_positions,
    rounding_step_km,
)

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)


@given(LATITUDES, LONGITUDES, st.integers(0, 6))
def test_rounded_positions_move_at_most_half_a_step(latitude, longitude, decimals):
    rounded = round_positions(np.array([[latitude, longitude]]), decimals)[0]
    step = Decimal(1).scaleb(-decimals)
    for was, now in zip((latitude, longitude), rounded, strict=True):
        assert float(Decimal(repr(float(now))).quantize(step, ROUND_HALF_EVEN)) == now
        assert abs(now - was) <= 0.5 * 10.0**-decimals + 1e-9
    assert -90 <= rounded[0] <= 90
    assert -180 <= rounded[1] <= 180


def test_none_keeps_positions_and_distances_whole():
    gps = np.array([[52.123456789, 4.987654321], [np.nan, np.nan]])
    assert round_positions(gps, None) is gps
    assert round_distances(gps[:, 0], None) is not None
    np.testing.assert_array_equal(round_distances(gps[:, 0], None), gps[:, 0])


def test_missing_stays_missing():
    assert np.isnan(round_positions(np.array([[np.nan, 4.9], [np.nan, np.nan]]), 2)[:, 0]).all()
    assert np.isnan(round_distances(np.array([np.nan]), 2)).all()


def test_rounding_removes_negative_zero():
    rounded = round_positions(np.array([[-0.3, -0.3], [0.3, 0.3]]), 0)
    assert not np.signbit(rounded).any()


@pytest.mark.parametrize("decimals", [0, 1, 2, 3])
def test_rounding_step_is_the_latitude_distance(decimals):
    expected = great_circle((50, 4), (50 + 10.0**-decimals, 4)).km
    assert rounding_step_km(decimals) == pytest.approx(expected, rel=1e-6)


@given(st.floats(0, 20_000), st.integers(0, 3))
def test_distances_are_multiples_of_the_rounding_step(distance, decimals):
    rounded = round_distances(np.array([distance]), decimals)[0]
    steps = rounded / rounding_step_km(decimals)
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert abs(rounded - distance) <= rounding_step_km(decimals) / 2 + 1e-6


GPS = np.array([[52.520008, 13.404954], [48.137154, 11.576124], [np.nan, np.nan]])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gps_raw", ["52°31'12\"N 13°24'18\"E", "", ""]),
        ("image.exifGeoHash", ["u33dc0", "u281z7", ""]),
        ("Lat", [None, None, None]),
        ("where", ["at (52.520008, 13.404954)", "https://maps/?q=48.137154,11.576124", None]),
        ("y", [52.520008, 48.137154, np.nan]),
        ("nested", [{"x": 13.40495}, None, None]),
    ],
)
def test_columns_that_reveal_positions_are_found(name, values):
    frame = pd.DataFrame({"city": ["Berlin", "Munich", ""], name: pd.Series(values, dtype=object)})
    assert position_columns(frame, GPS, 2) == [name]
    assert position_columns(frame, GPS, None) == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("latency", [0.25, 1.5, 2.0]),
        ("city_center", ["52.52, 13.40", "48.14, 11.58", ""]),  # no more than two decimals tell
        ("temperature", [13.404, -3.125, 21.5]),  # one of two, by chance
        ("nothing", [None, None, None]),
    ],
)
def test_other_columns_are_kept(name, values):
    assert position_columns(pd.DataFrame({name: values}), GPS, 2) == []


def test_columns_without_positions_are_found_by_name():
    frame = pd.DataFrame({"lng": [1.23456], "speed": [1.23456]})
    assert position_columns(frame, np.full((1, 2), np.nan), 1) == ["lng"]


def test_cells_in_group_names_are_replaced_by_numbers():
    cells = ["871f1d489ffffff", "871f1d48bffffff"]
    groups = np.array([f"drive/{cells[1]}", "drive/7", f"drive/{cells[0]}", f"drive/{cells[1]}", "row:1"], dtype=object)
    hidden = number_cells(groups)
    assert not any(cell in name for cell in cells for name in hidden)
    assert np.array_equal(pd.factorize(hidden)[0], pd.factorize(groups)[0])
    assert hidden[[1, 4]].tolist() == ["drive/7", "row:1"]
