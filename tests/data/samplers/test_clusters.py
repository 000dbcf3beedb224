import logging

import numpy as np
import pytest

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.utils.geo import haversine_km

SIX_CITIES = np.array([[52.52, 13.4], [48.86, 2.35], [52.37, 4.9], [40.42, -3.7], [41.9, 12.5], [48.2, 16.4]])


def around(centers_deg, n_each=100, seed=0):
    """(N, 2) points within some 10 km of each centre."""
    jitter = np.random.default_rng(seed).normal(0, 0.05, (len(centers_deg) * n_each, 2))
    return np.repeat(np.asarray(centers_deg, dtype=float), n_each, axis=0) + jitter


def test_six_cities_at_five_clusters_are_warned_about(caplog):
    clusters = cluster_deployment(around(SIX_CITIES), 5, 50, seed=42)
    # Amsterdam and Paris share a centre over 200 km from both.
    assert clusters.radius_km.max() > 200
    assert clusters.covered_share == pytest.approx(4 / 6)
    assert clusters.needed == 6
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "67 %" in record.message
    assert "6" in record.message


@pytest.mark.parametrize("seed", [0, 1, 42, 2**40])
def test_auto_finds_the_six_cities(caplog, seed):
    clusters = cluster_deployment(around(SIX_CITIES), "auto", 50, seed)
    assert (len(clusters.sizes), clusters.needed, clusters.covered_share) == (6, 6, 1.0)
    assert clusters.sizes.tolist() == [100] * 6
    offsets = haversine_km(clusters.centers_deg[:, None], SIX_CITIES[None]).min(axis=1)
    assert offsets.max() < 3
    assert not caplog.records


def test_largest_first_with_its_radius():
    points = np.concatenate([around(SIX_CITIES[:1], 30), around(SIX_CITIES[3:4], 90)])
    clusters = cluster_deployment(points, 2, 50, seed=0)
    assert clusters.sizes.tolist() == [90, 30]
    expected = [haversine_km(clusters.centers_deg[k], part).max() for k, part in enumerate((points[30:], points[:30]))]
    np.testing.assert_allclose(clusters.radius_km, expected)


def test_clusters_cross_the_antimeridian():
    clusters = cluster_deployment(np.array([[-17.0, 179.9], [-17.0, -179.9]] * 20), 1, 50, seed=0)
    assert abs(clusters.centers_deg[0, 1]) == pytest.approx(180, abs=1e-6)
    assert clusters.radius_km[0] < 11


def test_fewer_places_than_clusters(caplog):
    points = np.repeat(SIX_CITIES[:3], 4, axis=0)
    clusters = cluster_deployment(np.concatenate([points, [[np.nan, np.nan]]]), 5, 50, seed=0)
    assert clusters.sizes.tolist() == [4, 4, 4]
    np.testing.assert_allclose(clusters.radius_km, 0, atol=1e-6)
    assert caplog.messages == ["The deployment has 3 distinct places: 3 clusters, not 5."]


def test_wide_deployment_exceeds_the_largest_number(caplog):
    rng = np.random.default_rng(0)
    points = np.stack([rng.uniform(-60, 60, 500), rng.uniform(-180, 180, 500)], axis=1)
    clusters = cluster_deployment(points, "auto", 50, seed=0)
    assert (len(clusters.sizes), clusters.needed) == (64, None)
    assert "64" in caplog.text


def test_many_points_are_fitted_on_a_sample_and_all_are_counted():
    clusters = cluster_deployment(around(SIX_CITIES, 4_000), "auto", 50, seed=0)
    assert clusters.sizes.tolist() == [4_000] * 6


@pytest.mark.parametrize("n_clusters", [0, -1, 2.5, True, "five", None])
def test_unusable_numbers_are_rejected(n_clusters):
    with pytest.raises(ConfigError, match=r"data\.gps_sampling\.n_clusters"):
        cluster_deployment(SIX_CITIES, n_clusters, 50, seed=0)


@pytest.mark.parametrize("points", [np.empty((0, 2)), np.full((3, 2), np.nan)])
def test_deployment_without_points_is_rejected(points):
    with pytest.raises(DataError, match=r"point.*GPS"):
        cluster_deployment(points, 5, 50, seed=0)
