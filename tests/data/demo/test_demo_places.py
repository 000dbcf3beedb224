"""Places of the demo sequences: splittable, some revisited, few in deployment cities; geo_shift changes only looks."""

from dataclasses import fields, replace
from time import perf_counter

import numpy as np
import pytest
from geopy.distance import great_circle
from scipy.stats import chi2_contingency, chisquare

from roadwork.data.samplers.clusters import cluster_deployment
from roadwork.data.utils.geo import haversine_km, nearest_km
from roadwork.demo.cities import CITIES
from roadwork.demo.places import deployment_points, plan_sequences, radius_m, scatter
from roadwork.demo.scene import plan_scene

BUFFER_KM = 1.0  # the shipped data.splitting.buffer_km


def components(distances_km):
    """Connected component of each point by label propagation; points closer than the buffer are connected."""
    labels = np.arange(len(distances_km))
    near = distances_km < BUFFER_KM
    while True:
        spread = np.where(near, labels, len(labels)).min(axis=1)
        if (spread == labels).all():
            return labels
        labels = spread


def ends_of(sequences):
    """(N, 2, 2) positions of the first and last image of each sequence."""
    return np.array([(s.position(0), s.position(s.frames - 1)) for s in sequences])


@pytest.mark.parametrize("seed", [0, 3])
def test_city_falls_into_many_groups_with_a_gap_between(seed):
    sequences = plan_sequences(4800, seed)
    sizes, mixed = [], 0
    for city in CITIES:
        members = [s for s in sequences if s.city is city]
        ends = ends_of(members)
        distances = haversine_km(ends[:, None, :, None], ends[None, :, None, :]).min(axis=(2, 3))
        groups = components(distances)
        assert distances[groups[:, None] != groups[None]].min() > 1.15
        for group in np.unique(groups):
            sizes.append((groups == group).sum())
            mixed += len({members[i].label for i in np.flatnonzero(groups == group)}) == 2
    assert max(sizes) <= 5
    assert (
        1200 - len(sizes) == sum(size - 1 for size in sizes) == 151
    )  # one in eight of each city joins another's group
    assert 40 < mixed < 110  # a second drive has its own label


def test_one_drive_in_eight_is_repeated_one_street_away():
    metres = scatter(216, np.random.default_rng(0))
    distances = np.hypot(*(metres[:, None] - metres[None]).transpose(2, 0, 1))
    pairs = distances[np.triu_indices(216, 1)]
    near = pairs[pairs < 1200]
    assert len(near) == 27  # 216 / 8
    assert 100 <= near.min() < 250
    assert 650 < near.max() <= 800


def test_places_lie_within_22_km_of_their_city_and_fill_it():
    sequences = plan_sequences(4800, seed=3)
    for city in CITIES:
        centre = (city.latitude, city.longitude)
        distances = np.array([great_circle(centre, (s.latitude, s.longitude)).km for s in sequences if s.city is city])
        assert distances.max() < 22.1
        assert 0.15 < (distances < 11).mean() < 0.35  # a quarter of the disc's area


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_few_places_are_scattered_too(count):
    assert scatter(count, np.random.default_rng(0)).shape == (count, 2)


def test_many_places_widen_the_city_and_are_found_in_seconds():
    assert radius_m(336) == 22_000 < radius_m(337)
    start = perf_counter()
    metres = scatter(4500, np.random.default_rng(0))  # a city of 100,000 pictures
    assert perf_counter() - start < 5  # 0.3 s on a quiet core
    assert np.hypot(*metres.T).max() < radius_m(4500) == pytest.approx(80_498, abs=1)
    np.testing.assert_array_less(1199, sorted(np.hypot(*(metres - metres[0]).T))[2:])


def test_default_clusters_cover_the_deployment_cities(caplog):
    clusters = cluster_deployment(deployment_points(seed=0), n_clusters=5, first_edge_km=50.0, seed=42)
    assert clusters.covered_share == 1
    assert not caplog.records
    sequences = plan_sequences(4800, seed=0)
    distances, _ = nearest_km(np.array([(s.latitude, s.longitude) for s in sequences]), clusters.centers_deg)
    np.testing.assert_array_equal(distances < 50, [s.city.is_deployment for s in sequences])


def test_geo_shift_changes_only_looks():
    plans = {shift: plan_sequences(2000, seed=0, geo_shift=shift) for shift in (0.0, 0.3, 0.7, 1.0)}
    assert plans[1.0] == plan_sequences(2000, seed=0)
    names = [field.name for field in fields(plans[1.0][0]) if field.name != "look"]
    for plan in plans.values():
        assert [[getattr(s, name) for name in names] for s in plan] == [
            [getattr(s, name) for name in names] for s in plans[1.0]
        ]
    assert all(s.look is s.city.look for s in plans[1.0])
    looks = np.array([[id(s.look) for s in plan] for plan in plans.values()])
    borrows = looks[:-1] != looks[-1]
    assert not (borrows[1:] & ~borrows[:-1]).any()  # a sequence with its own look keeps it at any higher value
    same = np.where(borrows, looks[:-1], looks[0]) == looks[0]
    assert same.all()  # borrowed looks do not change either
    own = sum(city.share**2 for city in CITIES)  # probability that the random look is the own one
    assert borrows.mean(axis=1) == pytest.approx([(1 - shift) * (1 - own) for shift in (0, 0.3, 0.7)], abs=0.05)


def test_looks_are_independent_of_city_and_label_at_geo_shift_0():
    index = {id(city.look): i for i, city in enumerate(CITIES)}

    def crossed(plan, attribute):
        table = np.zeros((len(CITIES), len(CITIES)))
        np.add.at(table, ([attribute(s) for s in plan], [index[id(s.look)] for s in plan]), 1)
        return table[table.any(axis=1)]

    alike = plan_sequences(32_000, seed=0, geo_shift=0.0)
    by_city = crossed(alike, lambda s: CITIES.index(s.city))
    assert by_city.shape == (8, 8)
    assert chi2_contingency(by_city).pvalue > 0.01
    assert chi2_contingency(crossed(alike, lambda s: s.label)).pvalue > 0.01
    shares = [city.share * len(alike) for city in CITIES]
    assert chisquare(by_city.sum(axis=0), shares).pvalue > 0.01
    slightly = plan_sequences(32_000, seed=0, geo_shift=0.1)
    assert chi2_contingency(crossed(slightly, lambda s: CITIES.index(s.city))).pvalue < 1e-6


def test_pictures_depend_on_the_look_and_not_on_the_city():
    berlin, tokyo = CITIES[0], next(city for city in CITIES if city.slug == "tokyo")
    for sequence in plan_sequences(400, seed=0)[:2]:
        assert sequence.city is berlin
        moved = plan_scene(replace(sequence, city=tokyo), seed=0).pictures((160, 120))
        dressed = plan_scene(replace(sequence, look=tokyo.look), seed=0).pictures((160, 120))
        plain = plan_scene(sequence, seed=0).pictures((160, 120))
        assert [p.tobytes() for p in moved] == [p.tobytes() for p in plain]
        assert dressed[0].tobytes() != plain[0].tobytes()
        assert plan_scene(replace(sequence, look=tokyo.look), seed=0).camera(0, (160, 120)).side == -1
