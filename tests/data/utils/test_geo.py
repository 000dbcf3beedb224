import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.neighbors import BallTree

from roadwork.data.utils.geo import EARTH_RADIUS_KM, degrees_of, haversine_km, nearest_km, unit_vectors

points = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


@given(a=points, b=points)
@example(a=(0.0, 179.9999), b=(0.0, -179.9999))
@example(a=(90.0, 0.0), b=(-90.0, 0.0))
@example(a=(90.0, 12.0), b=(90.0, -170.0))
@example(a=(52.52, 13.4), b=(52.52, 13.400001))
@example(a=(10.0, 20.0), b=(-10.0, -160.0))
def test_haversine_agrees_with_geopy(a, b):
    # geopy's formula has rounding errors of a micrometre nearby; both have a metre across the globe.
    expected = great_circle(a, b).km
    assert haversine_km(np.array(a), np.array(b)) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_haversine_is_exact_for_a_tenth_of_a_millimetre():
    delta_deg = 1e-9
    expected = np.deg2rad(delta_deg) * EARTH_RADIUS_KM
    assert haversine_km(np.array([0.0, 0.0]), np.array([0.0, delta_deg])) == pytest.approx(expected, rel=1e-12)


@given(point=st.tuples(st.floats(-89.9, 89.9), st.floats(-179.9, 179.9)))
def test_degrees_of_unit_vectors_is_the_point(point):
    vectors = unit_vectors(np.array([point]))
    assert np.linalg.norm(vectors) == pytest.approx(1)
    np.testing.assert_allclose(degrees_of(3 * vectors), [point], atol=1e-10)


def test_nearest_agrees_with_a_ball_tree():
    rng = np.random.default_rng(1)
    queries = np.stack([rng.uniform(-90, 90, 70_000), rng.uniform(-180, 180, 70_000)], axis=1)
    centers = np.stack([rng.uniform(-90, 90, 40), rng.uniform(-180, 180, 40)], axis=1)
    distance, index = nearest_km(queries, centers)
    expected, neighbour = BallTree(np.deg2rad(centers), metric="haversine").query(np.deg2rad(queries))
    np.testing.assert_allclose(distance, expected[:, 0] * EARTH_RADIUS_KM, rtol=1e-9)
    np.testing.assert_array_equal(index, neighbour[:, 0])


def test_rows_with_nan_have_no_nearest():
    distance, index = nearest_km(
        np.array([[np.nan, 1.0], [1.0, 1.0], [1.0, np.nan]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    )
    np.testing.assert_array_equal(distance, [np.nan, 0, np.nan])
    np.testing.assert_array_equal(index, [-1, 1, -1])
    assert nearest_km(np.empty((0, 2)), np.zeros((1, 2)))[0].shape == (0,)
