"""Components equal those of the brute-force graph of great-circle distances, everywhere on the globe."""

import time

import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from roadwork.data.grouping import proximity
from roadwork.data.grouping.proximity import components_within
from roadwork.data.utils.geo import haversine_km

RADIUS_KM = 1.0


def brute_force(gps, radius_km):
    """Brute force with another formula; None if rounding decides whether a pair is within the radius."""
    distances = haversine_km(gps[:, None], gps[None])
    if (abs(distances - radius_km) < 1e-8).any():
        return None
    return connected_components(distances < radius_km, directed=False)[1]  # NaN is not below anything


def same_partition(a, b):
    return len({*zip(a, b, strict=True)}) == len(set(a)) == len(set(b))


@st.composite
def worlds(draw):
    """Up to 200 points in clusters of any width, at poles and the antimeridian too; some repeated, some missing."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = [[0, 179.999], [0, -179.999], [89.999, 10], [90, 0], [-89.995, -170], [52.5, 13.4], [-33.9, 151.2]]
    centers = draw(st.lists(st.sampled_from(corners), min_size=1, max_size=4))
    parts = []
    for latitude, longitude in centers:
        n = draw(st.integers(1, 50))
        spread_km = draw(st.sampled_from([0.0, 0.05, 0.5, 3.0, 10.0, 40.0]))
        offset = rng.normal(0, spread_km / 111.2, (n, 2))
        points = offset * [1, 1 / max(np.cos(np.deg2rad(latitude)), 1e-3)] + [latitude, longitude]
        over = abs(points[:, 0]) > 90  # across the pole, down the other side
        points[over, 0] = np.sign(points[over, 0]) * 180 - points[over, 0]
        points[over, 1] += 180
        parts.append(np.c_[points[:, 0], (points[:, 1] + 180) % 360 - 180])
    gps = rng.permutation(np.concatenate(parts))
    gps[rng.random(len(gps)) < draw(st.sampled_from([0, 0.2]))] = np.nan
    return gps


@settings(max_examples=200, deadline=None)
@given(gps=worlds(), radius_km=st.sampled_from([0.01, 0.3, RADIUS_KM, 5.0, 1000.0]))
def test_equal_to_brute_force(gps, radius_km):
    expected = brute_force(gps, radius_km)
    if expected is not None:
        assert same_partition(components_within(gps, radius_km), expected)


@pytest.mark.parametrize("gps", [np.empty((0, 2)), [[1.0, 2.0]], [[np.nan, np.nan]] * 3, [[1.0, np.nan], [2.0, 3.0]]])
def test_nothing_to_join(gps):
    assert len(set(components_within(np.array(gps), RADIUS_KM))) == len(gps)


def test_all_equal_is_one_and_zero_radius_joins_nothing():
    gps = np.full((500, 2), 45.0)
    assert len(set(components_within(gps, RADIUS_KM))) == 1
    assert len(set(components_within(gps, 1e-9))) == 1
    assert len(set(components_within(gps, 0.0))) == 500


@pytest.mark.parametrize("start", [(52.0, 13.0), (0.0, 179.9999), (89.9999, 0.0)])
@pytest.mark.parametrize(("km", "n_components"), [(0.99999, 1), (1.00001, 2)])
def test_radius_agrees_with_geopy(start, km, n_components):
    other = great_circle(kilometers=km).destination(start, bearing=70)
    gps = np.array([start, (other.latitude, other.longitude)])
    assert great_circle(*gps.tolist()).km == pytest.approx(km, abs=1e-7)
    assert len(set(components_within(gps, RADIUS_KM))) == n_components


def test_chain_is_one_component_and_order_does_not_matter():
    chain = np.c_[np.full(300, 60.0), np.arange(300) * 0.9 / (111.195 * 0.5)]
    far = chain + np.array([1.0, 0.0])
    gps = np.r_[chain, far]
    components = components_within(gps, RADIUS_KM)
    assert len(set(components[:300])) == len(set(components[300:])) == 1
    assert len(set(components)) == 2
    order = np.random.default_rng(0).permutation(600)
    assert same_partition(components_within(gps[order], RADIUS_KM), components[order])


@pytest.mark.parametrize("apart_km", [0.9, 1.1])
@pytest.mark.parametrize("batch", [10, 1 << 21])
def test_nested_rings_are_joined_correctly(monkeypatch, apart_km, batch):
    """Small batches use a tree for each pair of cells, large ones all distances."""
    monkeypatch.setattr(proximity, "_BATCH", batch)
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    ring = 0.1 * np.c_[np.sin(angle), np.cos(angle)] / 111.195
    towards = np.array([1.0, 1.0]) / np.sqrt(2)
    gps = np.r_[ring, ring + towards * (apart_km + 0.2) / 111.195]
    nearest = min(haversine_km(gps[:2000], point).min() for point in gps[2000:])
    assert nearest == pytest.approx(apart_km, abs=0.001)
    assert len(set(components_within(gps, RADIUS_KM))) == (1 if apart_km < RADIUS_KM else 2)


def test_dense_city_avoids_quadratic_time():
    rng = np.random.default_rng(0)
    gps = rng.uniform([52.4, 13.2], [52.67, 13.64], (100_000, 2))  # 30 x 30 km: 17 million pairs within the radius
    start = time.process_time()
    assert len(set(components_within(gps, RADIUS_KM))) == 1
    assert time.process_time() - start < 5
