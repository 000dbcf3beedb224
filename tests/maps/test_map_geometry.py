"""Circles against geopy's great circles, and cell rings against H3."""

from __future__ import annotations

from itertools import pairwise

import h3
import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.data.utils.geo import EARTH_RADIUS_KM
from roadwork.maps.geometry import cell_rings, geodesic_circle, split_line, split_ring


def distances_km(center, points):
    return np.array([great_circle(center, point).km for point in points])


def contains(ring, latitude, longitude):
    """Whether a point is inside a planar ring (even-odd rule)."""
    inside = False
    for (y0, x0), (y1, x1) in pairwise(ring):
        if (y0 > latitude) != (y1 > latitude) and longitude < x0 + (latitude - y0) / (y1 - y0) * (x1 - x0):
            inside = not inside
    return inside


@given(st.floats(-90, 90), st.floats(-180, 180), st.sampled_from([0.05, 50.0, 500.0, 5000.0, 15000.0]))
@settings(max_examples=60, deadline=None)
def test_circle_points_lie_at_the_radius(latitude, longitude, radius_km):
    ring = geodesic_circle(np.array([latitude, longitude]), radius_km)
    np.testing.assert_allclose(distances_km((latitude, longitude), ring[::7]), radius_km, rtol=1e-6)
    assert great_circle(ring[0], ring[-1]).km < 1e-3


def test_circle_at_60_degrees_is_twice_as_wide_as_high():
    ring = geodesic_circle(np.array([60.0, 10.0]), 500.0)
    high, wide = np.ptp(ring, axis=0)
    degrees = np.rad2deg(500 / EARTH_RADIUS_KM)
    assert high == pytest.approx(2 * degrees, rel=1e-3)
    # Napier: sin(half width) = sin(angle) / cos(latitude)
    assert wide / 2 == pytest.approx(np.rad2deg(np.arcsin(np.sin(np.deg2rad(degrees)) / 0.5)), rel=1e-3)


@given(st.floats(-89, 89), st.floats(170, 190), st.sampled_from([50.0, 500.0, 3000.0]))
@settings(max_examples=60, deadline=None)
def test_split_at_the_antimeridian_keeps_all_points(latitude, longitude, radius_km):
    center = (latitude, (longitude + 180) % 360 - 180)
    ring = geodesic_circle(np.array(center), radius_km)
    pieces = split_line(ring)
    for piece in pieces:
        assert np.abs(piece[:, 1]).max() <= 180 + 1e-9
        assert np.abs(np.diff(piece[:, 1])).max(initial=0) < 181
    drawn = np.concatenate(pieces)
    assert {tuple(point) for point in np.round(drawn, 6)} >= {
        tuple(point) for point in np.round(ring, 6) if abs(point[1]) < 179.9999
    }
    off_seam = drawn[np.abs(np.abs(drawn[:, 1]) - 180) > 1e-6]
    np.testing.assert_allclose(distances_km(center, off_seam[::11]), radius_km, rtol=1e-5)


def test_circle_across_the_antimeridian_is_on_both_sides():
    pieces = split_line(geodesic_circle(np.array([-17.0, 179.5]), 500.0))
    assert len(pieces) == 3  # starts and ends on the same side
    assert min(piece[:, 1].min() for piece in pieces) == pytest.approx(-180)
    assert max(piece[:, 1].max() for piece in pieces) == pytest.approx(180)
    assert all(np.ptp(piece[:, 1]) < 10 for piece in pieces)


def test_circle_around_a_pole_spans_all_longitudes():
    pieces = split_line(geodesic_circle(np.array([85.0, 20.0]), 1500.0))
    assert sum(np.abs(np.diff(piece[:, 1])).sum() for piece in pieces) == pytest.approx(360, abs=1e-6)


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(52.4, 4.9), (-17.0, 179.99), (-17.0, -179.99), (66.0, 180.0), (89.9, 33.0), (-89.5, -120)],
)
@pytest.mark.parametrize("resolution", [1, 3])
def test_cell_rings_agree_with_h3(latitude, longitude, resolution):
    cell = h3.latlng_to_cell(latitude, longitude, resolution)
    rings = cell_rings(cell)
    assert all(np.abs(ring[:, 1]).max() <= 180 and np.abs(ring[:, 0]).max() <= 90 for ring in rings)
    assert all(np.array_equal(ring[0], ring[-1]) for ring in rings)
    rng = np.random.default_rng(0)
    center = h3.cell_to_latlng(cell)
    reach = h3.average_hexagon_edge_length(resolution, unit="km") * 1.6
    agreed = 0
    for _ in range(300):
        direction = rng.uniform(0, 2 * np.pi)
        ring = geodesic_circle(np.array(center), reach * np.sqrt(rng.uniform(0.001, 1)))
        point = ring[int(direction / (2 * np.pi) * (len(ring) - 1))]
        agreed += sum(contains(ring, *point) for ring in rings) == (h3.latlng_to_cell(*point, resolution) == cell)
    # H3's edges are great circles and the map's are straight lines, so a few points near edges differ.
    assert agreed >= 260


def test_ring_without_crossings_is_unchanged():
    ring = np.array([[0.0, 0.0], [0.0, 5.0], [5.0, 5.0], [0.0, 0.0]])
    (kept,) = split_ring(ring)
    np.testing.assert_array_equal(kept, ring)
