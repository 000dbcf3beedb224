"""K-means clusters of the deployment's positions."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.utils.geo import degrees_of, nearest_km, unit_vectors

logger = logging.getLogger(__name__)

MAX_AUTO_CLUSTERS = 64
COVERAGE_TARGET = 0.95
_N_RESTARTS = 4
# Centres are fitted on at most this many random points; sizes, radii and coverage count all points.
_MAX_FITTED_POINTS = 10_000
# Unit vectors equal to 9 decimals (6 mm on the ground) are one place.
_DISTINCT_DECIMALS = 9


@dataclass(frozen=True)
class Clusters:
    """K clusters of M deployment points, the largest first.

    Attributes:
        centers_deg: (K, 2) float64 latitude, longitude in degrees.
        radius_km: (K,) float64 distance from each centre to its farthest point.
        sizes: (K,) int64 number of points nearest to each centre.
        covered_share: share of the points nearer to their centre than the first bracket's edge, 0 to 1.
        needed: the number of clusters that covers 95 %: K if K does, else the fewest above K; None if 64 do not.
    """

    centers_deg: np.ndarray
    radius_km: np.ndarray
    sizes: np.ndarray
    covered_share: float
    needed: int | None


def cluster_deployment(points_deg: np.ndarray, n_clusters: int | str, first_edge_km: float, seed: int) -> Clusters:
    """Clusters of the deployment's points, by K-means on the unit sphere, which has no edge at the antimeridian.

    Warns if a fixed number leaves over 5 % of the points at or beyond the first bracket's edge.

    Args:
        points_deg: (M, 2) latitude, longitude in degrees; rows with NaN are dropped.
        n_clusters: how many, or ``auto``: the fewest, up to 64, that cover 95 % of the points.
        first_edge_km: end of the first bracket in kilometres.
        seed: seed of K-means, 0 or more.

    Raises:
        ConfigError: ``n_clusters`` is neither ``auto`` nor a whole number >= 1.
        DataError: there is no point.
    """
    is_count = isinstance(n_clusters, int | np.integer) and not isinstance(n_clusters, bool) and n_clusters >= 1
    if n_clusters != "auto" and not is_count:
        raise ConfigError(f"data.gps_sampling.n_clusters is {n_clusters!r}; allowed: auto, or a whole number >= 1.")
    points_deg = points_deg[~np.isnan(points_deg).any(axis=1)]
    if len(points_deg) == 0:
        raise DataError(
            "The deployment has no point with GPS, so no distance to it can be measured. Set another "
            "data.gps_sampling.target, or turn the weighting off with data.gps_sampling.enabled=false."
        )
    sample_deg = _sample(points_deg, seed)
    # K-means cannot make more clusters than there are places.
    n_distinct = len(np.unique(unit_vectors(sample_deg).round(_DISTINCT_DECIMALS), axis=0))
    if n_clusters == "auto":
        needed = _fewest_covering(sample_deg, 1, n_distinct, first_edge_km, seed)
        n_used = needed or min(n_distinct, MAX_AUTO_CLUSTERS)
    else:
        n_used = min(int(n_clusters), n_distinct)
        if n_used < int(n_clusters):
            logger.warning(
                "The deployment has %d distinct places: %d clusters, not %s.", n_distinct, n_used, n_clusters
            )
    clusters = _fit(points_deg, sample_deg, n_used, first_edge_km, seed)
    if n_clusters != "auto":
        needed = n_used
        if clusters.covered_share < COVERAGE_TARGET:
            needed = _fewest_covering(sample_deg, n_used + 1, n_distinct, first_edge_km, seed)
    clusters = replace(clusters, needed=needed)
    if needed != n_used:
        _warn_of_low_coverage(clusters, first_edge_km)
    return clusters


def _warn_of_low_coverage(clusters: Clusters, first_edge_km: float) -> None:
    remedy = (
        f"Set it to {clusters.needed}, or to auto."
        if clusters.needed
        else f"Even {MAX_AUTO_CLUSTERS} are too few: widen the first bracket of data.gps_sampling.weight_brackets."
    )
    logger.warning(
        "data.gps_sampling.n_clusters: %d clusters put only %.0f %% of the deployment within %g km of a centre, so "
        "rows close to the rest of it weigh too little. %s",
        len(clusters.sizes),
        100 * clusters.covered_share,
        first_edge_km,
        remedy,
    )


def _fewest_covering(
    sample_deg: np.ndarray, first: int, n_distinct: int, first_edge_km: float, seed: int
) -> int | None:
    """The fewest clusters, ``first`` or more, that cover 95 % of the sample; None if the largest number does not."""
    last = min(n_distinct, MAX_AUTO_CLUSTERS)
    # The largest is tried first: if it falls short, as in a deployment across a continent, the others need no fit.
    if first > last or _fit(sample_deg, sample_deg, last, first_edge_km, seed).covered_share < COVERAGE_TARGET:
        return None
    fits = (_fit(sample_deg, sample_deg, k, first_edge_km, seed) for k in range(first, last))
    return next((len(fit.sizes) for fit in fits if fit.covered_share >= COVERAGE_TARGET), last)


def _fit(points_deg: np.ndarray, sample_deg: np.ndarray, n_clusters: int, first_edge_km: float, seed: int) -> Clusters:
    """K-means of the sample; sizes, radii and coverage are of all points."""
    # scikit-learn takes seeds of 32 bits; ours may be any whole number >= 0.
    kmeans_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    # One thread: more gain nothing on so small a problem, and take 20 times as long on busy cores.
    with threadpool_limits(1):
        kmeans = KMeans(n_clusters, n_init=_N_RESTARTS, random_state=kmeans_seed).fit(unit_vectors(sample_deg))
    centers_deg = degrees_of(kmeans.cluster_centers_)
    distance_km, index = nearest_km(points_deg, centers_deg)
    sizes = np.bincount(index, minlength=n_clusters)
    radius_km = np.zeros(n_clusters)
    np.maximum.at(radius_km, index, distance_km)
    order = np.argsort(-sizes, kind="stable")
    covered_share = float((distance_km < first_edge_km).mean())
    return Clusters(centers_deg[order], radius_km[order], sizes[order], covered_share, needed=None)


def _sample(points_deg: np.ndarray, seed: int) -> np.ndarray:
    if len(points_deg) <= _MAX_FITTED_POINTS:
        return points_deg
    rows = np.random.default_rng(seed).choice(len(points_deg), _MAX_FITTED_POINTS, replace=False)
    return points_deg[rows]
