"""Rounded positions and distances: no farther off than half a step, and nothing of the rest left."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given
from hypothesis import strategies as st

from roadwork.data.utils.privacy import coarsen, coarsen_km, grain_km

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)


@given(LATITUDES, LONGITUDES, st.integers(0, 6))
def test_positions_lie_on_the_grid_and_no_farther_than_half_a_step(latitude, longitude, decimals):
    rounded = coarsen(np.array([[latitude, longitude]]), decimals)[0]
    step = Decimal(1).scaleb(-decimals)
    for was, now in zip((latitude, longitude), rounded, strict=True):
        assert float(Decimal(repr(float(now))).quantize(step, ROUND_HALF_EVEN)) == now
        assert abs(now - was) <= 0.5 * 10.0**-decimals + 1e-9
    assert -90 <= rounded[0] <= 90
    assert -180 <= rounded[1] <= 180


def test_none_keeps_positions_and_distances_whole():
    gps = np.array([[52.123456789, 4.987654321], [np.nan, np.nan]])
    assert coarsen(gps, None) is gps
    assert coarsen_km(gps[:, 0], None) is not None
    np.testing.assert_array_equal(coarsen_km(gps[:, 0], None), gps[:, 0])


def test_missing_stays_missing():
    assert np.isnan(coarsen(np.array([[np.nan, 4.9], [np.nan, np.nan]]), 2)[:, 0]).all()
    assert np.isnan(coarsen_km(np.array([np.nan]), 2)).all()


def test_the_sign_of_a_place_near_greenwich_is_gone():
    rounded = coarsen(np.array([[-0.3, -0.3], [0.3, 0.3]]), 0)
    assert not np.signbit(rounded).any()


@pytest.mark.parametrize("decimals", [0, 1, 2, 3])
def test_the_grain_is_the_distance_between_neighbouring_latitudes(decimals):
    expected = great_circle((50, 4), (50 + 10.0**-decimals, 4)).km
    assert grain_km(decimals) == pytest.approx(expected, rel=1e-6)


@given(st.floats(0, 20_000), st.integers(0, 3))
def test_distances_are_whole_steps_of_the_grain(distance, decimals):
    rounded = coarsen_km(np.array([distance]), decimals)[0]
    steps = rounded / grain_km(decimals)
    assert steps == pytest.approx(round(steps), abs=1e-6)
    assert abs(rounded - distance) <= grain_km(decimals) / 2 + 1e-6
