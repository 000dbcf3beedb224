"""The shares of mixed datasets are exact, with and without GPS, across ranks and after a resume."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.core.errors import DataError
from roadwork.data.samplers.build import MixtureSampler
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.samplers.weights import Mixture

CITIES = np.array([[52.5, 13.4], [48.9, 2.3]])


class Rows:
    """Rows around Europe, some without GPS."""

    def __init__(self, n, seed=0):
        rng = np.random.default_rng(seed)
        self.gps = np.stack([rng.uniform(36, 56, n), rng.uniform(-9, 20, n)], axis=1)
        self.gps[rng.random(n) < 0.3] = np.nan
        self.labels = rng.integers(2, size=n)

    def __len__(self):
        return len(self.gps)


def mixture_of(sizes, shares, weights=None, seed=0):
    """Rows of D datasets in random order."""
    index = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    names = tuple(f"d{number}" for number in range(len(sizes)))
    return Mixture(names, index, tuple(shares), tuple(weights or np.ones(len(sizes))))


def build(kind, mixture, **options):
    if kind == "uniform":
        return MixtureSampler(mixture, **options)
    return GPSWeightedSampler(Rows(len(mixture.index)), CITIES, 2, mixture=mixture, **options)


@st.composite
def mixtures(draw):
    sizes = draw(st.lists(st.integers(1, 60), min_size=2, max_size=4))
    parts = draw(st.lists(st.integers(1, 20), min_size=len(sizes), max_size=len(sizes)))
    shares = [None, *(part / sum(parts) for part in parts[1:])]
    return mixture_of(sizes, shares, seed=draw(st.integers(0, 99)))


@settings(deadline=None, max_examples=60)
@given(mixture=mixtures(), kind=st.sampled_from(["uniform", "gps"]), epoch=st.integers(0, 5))
def test_shares_are_exact_within_one_draw(mixture, kind, epoch):
    sampler = build(kind, mixture, random_seed=3)
    sampler.set_epoch(epoch)
    drawn = np.bincount(mixture.index[list(sampler)], minlength=len(mixture))
    assert drawn.sum() == len(mixture.index)
    for number, share in enumerate(mixture.shares[1:], 1):
        assert abs(drawn[number] - share * drawn.sum()) < 1 + 1e-6


@settings(deadline=None, max_examples=40)
@given(mixture=mixtures(), seed=st.integers(0, 9))
def test_weights_inside_a_dataset_keep_their_ratios(mixture, seed):
    rows = Rows(len(mixture.index), seed)
    plain = GPSWeightedSampler(rows, CITIES, 2).weights
    mixed = GPSWeightedSampler(rows, CITIES, 2, mixture=mixture).weights
    for number in range(len(mixture)):
        ratios = (mixed / plain)[mixture.index == number]
        assert np.ptp(ratios) <= 1e-9 * ratios.max()
    np.testing.assert_array_equal(mixed[mixture.index == 0], plain[mixture.index == 0])


@pytest.mark.parametrize("kind", ["uniform", "gps"])
def test_weight_multiplies_the_draws(kind):
    mixture = mixture_of([40, 20], [None, None], [1.0, 2.5])
    plain = build(kind, mixture_of([40, 20], [None, None])).weights
    np.testing.assert_allclose(build(kind, mixture).weights / plain, np.where(mixture.index == 1, 2.5, 1.0))


@pytest.mark.parametrize("kind", ["uniform", "gps"])
@pytest.mark.parametrize(("shares", "weights"), [((None, 0.0), (1, 1)), ((None, None), (1, 0.0))])
def test_evaluation_only_datasets_are_never_drawn(kind, shares, weights):
    mixture = mixture_of([40, 20], shares, weights)
    assert (mixture.index[list(build(kind, mixture))] == 0).all()


@pytest.mark.parametrize("kind", ["uniform", "gps"])
def test_ranks_share_one_epoch_and_a_pass_begins_anywhere(kind):
    mixture = mixture_of([50, 31], [None, 0.4])
    whole = list(build(kind, mixture))
    ranks = [list(build(kind, mixture).for_rank(rank, 3)) for rank in range(3)]
    assert [ranks[i % 3][i // 3] for i in range(len(whole))] == whole
    again = build(kind, mixture)
    again.start_at(17)
    assert list(again) == whole[17:]
    assert list(again) != whole  # the next epoch differs
    assert sorted(mixture.index[whole]) == [0] * 49 + [1] * 32 or sorted(mixture.index[whole]) == [0] * 48 + [1] * 33


@pytest.mark.parametrize("kind", ["uniform", "gps"])
def test_iid_draws_meet_the_share_on_average(kind):
    mixture = mixture_of([3000, 1000], [None, 0.6])
    drawn = mixture.index[list(build(kind, mixture, draw="iid"))]
    assert abs(drawn.mean() - 0.6) < 5 * np.sqrt(0.6 * 0.4 / 4000)


def test_balanced_labels_stay_balanced_in_every_dataset():
    mixture, brackets = mixture_of([400, 300], [None, 0.4]), [[0, 500, 5.0], [500, "inf", 1.0]]
    rows = Rows(700)
    rows.labels[mixture.index == 1] = np.random.default_rng(1).random(300) < 0.8
    weights = GPSWeightedSampler(rows, CITIES, 2, brackets, balance_labels=True, mixture=mixture).weights
    assert weights @ rows.labels / weights.sum() == pytest.approx(rows.labels.mean())
    assert weights[mixture.index == 1].sum() / weights.sum() == pytest.approx(0.4)


def test_summary_lists_draws_per_dataset():
    mixture = mixture_of([60, 40], [None, 0.3])
    summary = GPSWeightedSampler(Rows(100), CITIES, 2, mixture=mixture).summary()
    of_extra = np.array([name.startswith("d1: ") for name in summary.bracket_names])
    assert summary.draw_shares[of_extra].sum() == pytest.approx(0.3)
    assert summary.n_missing == int(np.isnan(Rows(100).gps[:, 0]).sum())
    assert "d1: without GPS" in str(summary)


@pytest.mark.parametrize("kind", ["uniform", "gps"])
def test_share_of_an_empty_dataset_is_rejected(kind):
    with pytest.raises(DataError, match=r"30% .*\btrain\b"):
        build(kind, mixture_of([10, 0], [None, 0.3]))
    with pytest.raises(DataError, match="`share`"):
        build(kind, mixture_of([0, 10], [None, 0.3]))
