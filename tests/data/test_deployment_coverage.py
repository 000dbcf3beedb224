import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.data import deployment as reach
from roadwork.data.deployment import unreachable_targets

BERLIN, TOKYO, SUVA = [52.52, 13.40], [35.68, 139.65], [-18.14, 178.44]


def around(center, n, seed=0):
    return np.asarray(center) + np.random.default_rng(seed).normal(0, 0.05, (n, 2))


def test_covered_deployment_is_not_warned_about():
    assert unreachable_targets(around(BERLIN, 20), around([51.0, 13.0], 50)) is None


def test_uncovered_places_are_listed_largest_first():
    points = np.concatenate([around(TOKYO, 3), around(BERLIN, 10), around(SUVA, 7), [[np.nan, np.nan]]])
    train = np.concatenate([around(BERLIN, 50), [[np.nan, np.nan]]])
    warning = unreachable_targets(points, train)
    suva = min(great_circle(point, row).km for point in points[13:20] for row in train[:50])
    tokyo = min(great_circle(point, row).km for point in points[:3] for row in train[:50])
    assert warning.startswith("Weighting cannot help 10 of 20 deployment points")
    assert "200 km" in warning
    assert f"7 near -18.2, 178.4 (the closest training image is {suva:,.0f} km away); 3 near 35.7, 139." in warning
    assert f"(the closest training image is {tokyo:,.0f} km away). Add training" in warning


def test_many_places_are_counted_not_listed():
    points = np.array([[lat, 0.0] for lat in range(-80, 81, 10)])
    warning = unreachable_targets(points, np.array([[0.0, 179.0]]))
    assert warning.count("near") == 5
    assert "12 at 12 other places" in warning


def test_without_any_gps_in_training():
    assert "No training image has GPS" in unreachable_targets(around(BERLIN, 2), np.full((3, 2), np.nan))
    assert "No training image has GPS" in unreachable_targets(around(BERLIN, 2), np.empty((0, 2)))
    assert unreachable_targets(np.empty((0, 2)), around(BERLIN, 3)) is None


positions = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=12).map(np.array)


@settings(deadline=None, max_examples=100)
@given(points=positions, train=positions, radius_km=st.floats(1, 25_000), chunk=st.integers(1, 5))
def test_count_agrees_with_brute_force(points, train, radius_km, chunk):
    nearest = [min(great_circle(point, row).km for row in train) for point in points]
    if any(abs(km - radius_km) < 1e-3 * radius_km for km in nearest):
        return  # both results are allowed: geopy's Earth is slightly larger
    n_far = sum(km > radius_km for km in nearest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reach, "_CHUNK_ROWS", chunk)
        warning = unreachable_targets(points, train, radius_km)
    assert (warning is None) == (n_far == 0)
    if warning is not None:
        assert warning.startswith(f"Weighting cannot help {n_far} of {len(points)} deployment points")
