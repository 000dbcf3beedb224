import math
from itertools import islice

import numpy as np
import pytest
from geopy.distance import great_circle
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.utils.data import BatchSampler, DataLoader, Dataset

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.samplers import stratified_sampler as draws
from roadwork.data.samplers import weights as classes
from roadwork.data.samplers.build import UniformSampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

CITIES = np.array([[52.52, 13.40], [48.86, 2.35], [40.42, -3.70]])


class Rows(Dataset):
    """A dataset that fails the test when a row is fetched."""

    def __init__(self, gps):
        self.gps = gps

    def __len__(self):
        return len(self.gps)

    def __getitem__(self, row):
        raise AssertionError(f"row {row} was fetched")


class Readable(Rows):
    def __getitem__(self, row):
        return row


def europe(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    gps = np.stack([rng.uniform(36, 56, n_rows), rng.uniform(-9, 20, n_rows)], axis=1)
    gps[::10] = np.nan
    return gps


def sampler_of(n_rows=300, **kwargs):
    return GPSWeightedSampler(Rows(europe(n_rows)), CITIES, n_clusters=3, **kwargs)


def test_weights_agree_with_brute_force():
    gps = europe(10_000)
    sampler = GPSWeightedSampler(
        data_source=Rows(gps), test_gps=CITIES, n_clusters=3, random_seed=42, missing_weight=0.7
    )
    for row in range(len(gps)):
        if math.isnan(gps[row, 0]):
            assert sampler.weights[row] == 0.7
            assert math.isnan(sampler.distances_km[row])
            continue
        distance = min(great_circle(gps[row], city).km for city in CITIES)
        expected = 5.0 if distance < 50 else 2.5 if distance < 200 else 1.0 if distance < 500 else 0.3
        assert sampler.distances_km[row] == pytest.approx(distance, rel=1e-6)
        assert sampler.weights[row] == expected
    assert sampler.weights.dtype == sampler.distances_km.dtype == sampler.cluster_centers.dtype == np.float64
    np.testing.assert_allclose(np.sort(sampler.cluster_centers, axis=0), np.sort(CITIES, axis=0), atol=1e-9)


PLACES = st.one_of(
    st.tuples(st.floats(-90, 90), st.floats(-180, 180)),
    st.tuples(st.sampled_from([-90.0, 0.0, 90.0]), st.sampled_from([-180.0, 0.0, 180.0])),
    # Pairs of neighbours a few metres to kilometres apart.
    st.tuples(st.floats(-1e-2, 1e-2), st.floats(-1e-2, 1e-2)).map(lambda d: (52.5 + d[0], 13.4 + d[1])),
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(PLACES, min_size=1, max_size=25), city=PLACES)
def test_distances_agree_with_geopy(rows, city):
    sampler = GPSWeightedSampler(Rows(np.array(rows)), np.array([city]), 1)
    # The K-means centre of the city, up to the rounding of a unit vector (nanometres).
    center = sampler.cluster_centers[0]
    assert great_circle(center, city).km < 1e-8 + 1e-12
    expected = [great_circle(row, center).km for row in rows]
    # geopy's radius is 6371.009 km, the IUGG's 6371.0088: 3e-8 of the distance.
    np.testing.assert_allclose(sampler.distances_km, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float32_positions_are_measured_exactly(dtype):
    gps = europe(500).astype(dtype)
    sampler = GPSWeightedSampler(Rows(gps), CITIES, 3)
    expected = [min(great_circle(row, city).km for city in CITIES) for row in gps.astype(float) if not np.isnan(row[0])]
    np.testing.assert_allclose(sampler.distances_km[~np.isnan(gps[:, 0])], expected, rtol=1e-6)


def test_distances_do_not_depend_on_the_chunks(monkeypatch):
    whole = sampler_of(1000)
    monkeypatch.setattr(classes, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(draws, "_CHUNK_ROWS", 11)
    parts = sampler_of(1000)
    np.testing.assert_array_equal(parts.distances_km, whole.distances_km)
    np.testing.assert_array_equal(parts.weights, whole.weights)
    assert list(parts) == list(whole)
    assert str(parts.summary()) == str(whole.summary())


@pytest.mark.parametrize("draw", ["systematic", "iid"])
def test_epoch_has_python_ints_drawn_by_weight(draw):
    sampler = sampler_of(20_000, draw=draw)
    rows = list(sampler)
    assert len(rows) == len(sampler) == 20_000
    assert {type(row) for row in rows} == {int}
    summary = sampler.summary()
    index = np.searchsorted([50, 200, 500], sampler.distances_km, side="right")
    index[np.isnan(sampler.distances_km)] = 4
    shares = np.bincount(index[rows], minlength=5) / len(rows)
    np.testing.assert_allclose(shares, summary.draw_shares, atol=1e-3 if draw == "systematic" else 0.02)


def test_shares_match_weights_by_chi_square():
    """Systematic draws vary less than the multinomial that the test assumes; see test_draws.py."""
    sampler = sampler_of(10_000, draw="iid")
    brackets, bracket_of_row = np.unique(sampler.weights, return_inverse=True)
    drawn = np.bincount(bracket_of_row[[row for _ in range(5) for row in sampler]])
    expected = 50_000 * np.bincount(bracket_of_row, weights=sampler.weights) / sampler.weights.sum()
    assert len(brackets) == 4  # two brackets have weight 1
    assert chisquare(drawn, expected).pvalue > 1e-3
    off_by_a_twentieth = sampler.weights * np.where(bracket_of_row == 0, 1.05, 1)
    unlike = 50_000 * np.bincount(bracket_of_row, weights=off_by_a_twentieth) / off_by_a_twentieth.sum()
    assert chisquare(drawn, unlike).pvalue < 1e-3
    systematic = sampler_of(10_000)
    drawn = np.bincount(bracket_of_row[[row for _ in range(5) for row in systematic]])
    assert np.abs(drawn - expected).max() < 5


def test_epoch_advances_after_each_full_pass():
    sampler = sampler_of()
    passes = [list(sampler) for _ in range(3)]
    assert passes[0] != passes[1] != passes[2]
    again = sampler_of()
    for epoch in (2, 0, 1):
        again.set_epoch(epoch)
        assert again.epoch_order().tolist() == passes[epoch]
        assert list(again) == passes[epoch]


def test_full_pass_advances_the_epoch_and_partial_pass_repeats():
    sampler = sampler_of()
    first = list(islice(sampler, 100))
    assert list(islice(sampler, len(sampler)))[:100] == first
    assert list(sampler)[:100] != first


def test_set_epoch_overrides_the_automatic_epoch():
    sampler = sampler_of()
    rows = iter(sampler)
    next(rows)
    sampler.set_epoch(7)
    list(rows)
    assert sampler.epoch == 7


def test_reading_the_order_changes_nothing():
    sampler = sampler_of()
    np.testing.assert_array_equal(sampler.epoch_order(), sampler.epoch_order())
    assert sampler.epoch_order().tolist() == list(sampler)


def test_zero_is_a_seed():
    orders = {seed: list(sampler_of(random_seed=seed)) for seed in (0, 42)}
    assert orders[0] != orders[42]
    assert orders[0] == list(sampler_of(random_seed=0))


@settings(deadline=None, max_examples=30)
@given(n_rows=st.integers(1, 60), world_size=st.integers(1, 7))
def test_ranks_interleave_to_one_order(n_rows, world_size):
    """The order without the rows at the end that do not suffice for all ranks."""
    order = sampler_of(n_rows).epoch_order()
    n_each = n_rows // world_size
    merged = np.full(n_each * world_size, -1)
    for rank in range(world_size):
        sampler = sampler_of(n_rows, rank=rank, world_size=world_size)
        rows = list(sampler)
        assert len(rows) == len(sampler) == n_each
        merged[rank::world_size] = rows
    np.testing.assert_array_equal(merged, order[: len(merged)])


@pytest.mark.parametrize("sampler_class", [GPSWeightedSampler, UniformSampler])
def test_ranks_together_have_the_batches_of_one_process(sampler_class):
    """The batches of one process are as many times larger; all ranks have equally many, or one would wait forever."""
    n_rows, world_size, batch_size = 47, 3, 4

    def batches_of(rank, world_size, batch_size):
        if sampler_class is GPSWeightedSampler:
            sampler = sampler_of(n_rows, rank=rank, world_size=world_size)
        else:
            sampler = UniformSampler(range(n_rows), world_size, rank, drop_last=True)
        return list(BatchSampler(sampler, batch_size, drop_last=False))

    alone = batches_of(0, 1, batch_size * world_size)
    ranks = [batches_of(rank, world_size, batch_size) for rank in range(world_size)]
    assert [len(batch) for batch in ranks[0]] == [4, 4, 4, 3]
    for batches in zip(alone, *ranks, strict=True):
        together = [row for rows in zip(*batches[1:], strict=True) for row in rows]
        assert together == batches[0][: len(together)]


@pytest.mark.parametrize("position", [0, 1, 137, 299, 300])
def test_only_the_next_pass_starts_in_the_middle(position):
    whole = sampler_of()
    passes = [list(whole), list(whole)]
    resumed = sampler_of()
    resumed.start_at(position)
    assert list(resumed) == passes[0][position:]
    resumed.set_epoch(1)
    assert list(resumed) == passes[1]


def test_each_rank_begins_at_its_own_position():
    whole = sampler_of(rank=1, world_size=3)
    resumed = sampler_of(rank=1, world_size=3)
    resumed.start_at(40)
    assert list(resumed) == list(whole)[40:]


def test_chunks_do_not_change_the_order():
    sampler = sampler_of(150_000)
    assert sampler.epoch_order().tolist() == list(sampler)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_a_data_loader(num_workers):
    dataset = Readable(europe(100))
    sampler = GPSWeightedSampler(dataset, CITIES, 3)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=num_workers, drop_last=True)
    expected = sampler.epoch_order()[:96].reshape(12, 8).tolist()
    assert [batch.tolist() for batch in loader] == expected
    assert [batch.tolist() for batch in loader] != expected


def test_rows_with_weight_zero_are_never_drawn():
    sampler = sampler_of(missing_weight=0)
    assert not np.isnan(sampler.distances_km[sampler.epoch_order()]).any()
    with pytest.raises(DataError, match=r"300 .*data\.gps_sampling\.missing_weight"):
        GPSWeightedSampler(Rows(np.full((300, 2), np.nan)), CITIES, 3, missing_weight=0)


def test_without_any_gps_a_pass_is_a_permutation():
    sampler = GPSWeightedSampler(Rows(np.full((50, 2), np.nan)), CITIES, 3)
    assert sorted(sampler) == list(range(50))
    assert "50 without GPS" in str(sampler.summary())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"draw": "random"}, ConfigError, r"data\.gps_sampling\.draw.*'random'.*systematic, iid"),
        ({"missing_weight": -1}, ConfigError, "data.gps_sampling.missing_weight"),
        ({"missing_weight": float("nan")}, ConfigError, "data.gps_sampling.missing_weight"),
        ({"random_seed": -1}, ConfigError, "data.gps_sampling.random_seed"),
        ({"weight_brackets": [[0, 50, 1]]}, ConfigError, "data.gps_sampling.weight_brackets"),
        ({"rank": 2, "world_size": 2}, ConfigError, r"rank.*\b2\b"),
        ({"test_gps": np.empty((0, 2))}, DataError, "point.*GPS"),
        ({"test_gps": np.full((4, 2), np.nan)}, DataError, "point.*GPS"),
        ({"test_gps": np.array([52.5, 13.4])}, DataError, r"test_gps.*\(2,\)"),
        ({"test_gps": np.array([[139.7, 35.7]])}, DataError, "test_gps.*latitude"),
        ({"data_source": Rows(np.array([[139.7, 35.7]]))}, DataError, r"data_source\.gps"),
        ({"data_source": Rows(np.zeros((4, 3)))}, DataError, "shape"),
    ],
)
def test_unusable_arguments_are_rejected(arguments, error, message):
    with pytest.raises(error, match=message):
        GPSWeightedSampler(**{"data_source": Rows(europe(20)), "test_gps": CITIES, **arguments})


def test_summary_in_numbers_and_words():
    # 10 rows at each of 0, about 111, 333 and 1,112 km from the deployment point, and 10 without GPS.
    gps = np.array([[0.0, 10], [1, 10], [3, 10], [10, 10], [np.nan, np.nan]] * 10)
    summary = GPSWeightedSampler(Rows(gps), np.array([[0.0, 10.0]]), 1).summary()
    weights = np.array([5, 2.5, 1, 0.3, 1])
    km = np.array([great_circle((0, 10), (lat, 10)).km for lat in (0, 1, 3, 10)])
    np.testing.assert_allclose(summary.row_shares, 0.2)
    np.testing.assert_allclose(summary.draw_shares, weights / weights.sum())
    assert summary.effective_rows == pytest.approx(10 * weights.sum() ** 2 / (weights**2).sum())
    assert summary.mean_distance_uniform_km == pytest.approx(km.mean())
    assert summary.mean_distance_weighted_km == pytest.approx(np.average(km, weights=weights[:4]))
    assert (summary.n_rows, summary.n_missing) == (50, 10)
    text = str(summary)
    assert "50 rows, 10 without GPS" in text
    assert "weighted draws: 107 km" in text  # (2.5 x 111 + 1 x 334 + 0.3 x 1112) / 8.8
    assert any(line.split() == ["50-200", "km", "2.5", "20.0%", "25.5%"] for line in text.splitlines())
    assert any(line.split() == ["0.000,", "10.000", "1", "0.0"] for line in text.splitlines())
