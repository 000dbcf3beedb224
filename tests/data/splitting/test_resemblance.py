"""The kNNDM statistic of the paper: the area between two distributions of distances to the nearest training row."""

from itertools import pairwise

import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.core.errors import DataError
from roadwork.data.split_verification import Resemblance, compare_with_deployment

DEGREE_KM = great_circle((0, 0), (0, 1)).km
ORIGIN = np.array([[0.0, 0.0]])


def along_equator(*degrees):
    return np.stack([np.zeros(len(degrees)), np.array(degrees, dtype=float)], axis=1)


def paper_w(train, test, deployment):
    """W = integral of |G_j*(r) - G_ij(r)| dr, as a sum over the sorted distances, each by brute force."""
    test_km, deployment_km = (
        [min(great_circle(point, other).km for other in train) for point in points] for points in (test, deployment)
    )
    edges = sorted([*test_km, *deployment_km])
    area = 0.0
    for low, high in pairwise(edges):
        share_of_test = sum(km <= low for km in test_km) / len(test_km)
        share_of_deployment = sum(km <= low for km in deployment_km) / len(deployment_km)
        area += abs(share_of_test - share_of_deployment) * (high - low)
    return area


point = st.tuples(st.floats(-90, 90), st.floats(-180, 180))
some_points = st.lists(point, min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(train=some_points, test=some_points, deployment=some_points)
def test_w_agrees_with_the_definition(train, test, deployment):
    found = compare_with_deployment(*map(np.array, (train, test, deployment)))
    assert found.wasserstein_km == pytest.approx(paper_w(train, test, deployment), rel=1e-6, abs=1e-6)


def test_w_on_a_fine_grid_of_distances():
    rng = np.random.default_rng(0)
    train, test, deployment = (rng.normal((52, 13), spread, (40, 2)) for spread in (0.5, 0.7, 3.0))
    test_km, deployment_km = (
        np.array([min(great_circle(a, b).km for b in train) for a in points]) for points in (test, deployment)
    )
    step = 0.01
    r = np.arange(0, max(test_km.max(), deployment_km.max()) + step, step)
    g_test = (test_km[None, :] <= r[:, None]).mean(axis=1)
    g_deployment = (deployment_km[None, :] <= r[:, None]).mean(axis=1)
    expected = (np.abs(g_test - g_deployment) * step).sum()
    assert compare_with_deployment(train, test, deployment).wasserstein_km == pytest.approx(expected, abs=2 * step)


def test_hand_computed_example():
    """Test at 1 and 2 degrees, deployment at 1 and 4 degrees: half of the mass moves by 2 degrees."""
    found = compare_with_deployment(ORIGIN, along_equator(1, 2), along_equator(-1, 4))
    assert found.wasserstein_km == pytest.approx(DEGREE_KM)
    assert found.test_median_km == pytest.approx(1.5 * DEGREE_KM)
    assert found.deployment_median_km == pytest.approx(2.5 * DEGREE_KM)
    assert found.deployment_mean_km == pytest.approx(2.5 * DEGREE_KM)


def test_nearest_training_row_counts_and_missing_gps_is_ignored():
    train = np.array([[0, 0], [0, 10], [np.nan, np.nan]])
    found = compare_with_deployment(train, np.array([[0, 9], [np.nan, 3]]), along_equator(1, 2, 3))
    assert found.test_median_km == pytest.approx(DEGREE_KM)
    assert found.wasserstein_km == pytest.approx(DEGREE_KM)


@pytest.mark.parametrize(
    ("test", "deployment", "verdict", "expected"),
    [
        ((1, 2), (-1, -2), "alike", "resembles the deployment"),
        ((0.1,), (3,), "easier", "a median 11.1 km from training, the deployment 333.6 km: val_test is easier"),
        ((3,), (0.1,), "harder", "val_test is harder than the deployment"),
        ((0,), (0,), "alike", "a median 0 m from training, the deployment 0 m"),
        ((1,), (0,), "harder", "Wasserstein distance 111.2 km"),
        ((2, 2, 2), (1, 1, 30), "mixed", "some of val_test is nearer"),
        ((2, 2), (1, 3), "mixed", "some of val_test is nearer"),
    ],
)
def test_report_sentence(test, deployment, verdict, expected):
    found = compare_with_deployment(ORIGIN, along_equator(*test), along_equator(*deployment))
    assert found.verdict == verdict
    assert expected in str(found)


def test_without_positions():
    nowhere = np.full((2, 2), np.nan)
    with pytest.raises(DataError, match=r"val_test.*GPS"):
        compare_with_deployment(ORIGIN, nowhere, ORIGIN)
    with pytest.raises(DataError, match=r"train.*GPS"):
        compare_with_deployment(nowhere, ORIGIN, ORIGIN)


def test_verdict_of_close_distances():
    assert Resemblance(95, 95, 100, 100, wasserstein_km=9).verdict == "alike"
    assert Resemblance(85, 85, 100, 100, wasserstein_km=15).verdict == "easier"
