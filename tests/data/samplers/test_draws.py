from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, chisquare

from roadwork.data.samplers.stratified_sampler import Strata, draw_iid, draw_systematic

WEIGHTS = np.array([5.0, 2.5, 1.0, 0.3, 1.0])


def classes_of(sizes, weights, seed=0):
    index = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(seed).shuffle(index)
    return Strata.from_index(index, np.asarray(weights, dtype=float)), np.asarray(weights, dtype=float)[index]


class_lists = st.lists(
    st.tuples(st.integers(0, 60), st.one_of(st.just(0.0), st.floats(1e-6, 1e6))), min_size=1, max_size=7
).filter(lambda classes: any(size and weight for size, weight in classes))


@settings(max_examples=300, deadline=None)
@given(classes=class_lists, seed=st.integers(0, 2**32))
def test_counts_are_floor_or_ceiling_of_the_expectation(classes, seed):
    grouped, weights = classes_of(*zip(*classes, strict=True))
    order = draw_systematic(grouped, np.random.default_rng(seed))
    counts = np.bincount(order, minlength=len(weights))
    assert counts.sum() == len(weights)
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    for count, weight in zip(counts, exact, strict=True):
        expected = len(exact) * weight / total
        assert abs(count - expected) < 1


@given(n_rows=st.integers(1, 200), weight=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32))
def test_equal_weights_give_a_permutation(n_rows, weight, seed):
    grouped, _ = classes_of([n_rows // 3, n_rows - n_rows // 3, 0], [weight] * 3)
    order = draw_systematic(grouped, np.random.default_rng(seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(n_rows))


@pytest.mark.parametrize("draw", [draw_systematic, draw_iid])
def test_each_row_is_drawn_by_its_weight_on_average(draw):
    grouped, weights = classes_of([10, 20, 40, 100, 30], WEIGHTS)
    rng = np.random.default_rng(3)
    n_epochs = 2_000
    counts = sum(np.bincount(draw(grouped, rng), minlength=200) for _ in range(n_epochs))
    expected = n_epochs * 200 * weights / weights.sum()
    # The systematic draw varies less than independent draws, never more.
    assert chisquare(counts, expected).pvalue > 1e-3


def test_iid_draws_vary_more_than_systematic_draws():
    grouped, weights = classes_of([100, 200, 400, 1000, 300], WEIGHTS)
    expected = 2000 * weights / weights.sum()
    statistics = {
        draw: [
            chisquare(np.bincount(draw(grouped, np.random.default_rng(seed)), minlength=2000), expected).pvalue
            for seed in range(200)
        ]
        for draw in (draw_iid, draw_systematic)
    }
    assert 0.35 < np.mean(statistics[draw_iid]) < 0.65
    assert min(statistics[draw_systematic]) > 0.99


def test_systematic_rounding_is_uniform_over_rows():
    """k of m rows get one draw above the floor, a sample without replacement that varies less than a multinomial.

    Over E epochs with share f of the rows chosen, sum (count - E f)^2 / (E f (1 - f)) * (m - 1) / m is chi-square with
    m - 1 degrees of freedom. Too large a value: some rows are preferred. Too small: rows take turns.
    """
    grouped, _ = classes_of([130, 200, 400, 1000, 300], WEIGHTS)
    n_epochs = 300
    counts = sum(
        np.bincount(draw_systematic(grouped, np.random.default_rng([1, epoch])), minlength=2030)
        for epoch in range(n_epochs)
    )
    for members, exact in zip(grouped.members(), grouped.expected_counts(), strict=True):
        expected, share, n_rows = n_epochs * float(exact), float(exact % 1), len(members)
        spread = ((counts[members] - expected) ** 2).sum() / (n_epochs * share * (1 - share)) * (n_rows - 1) / n_rows
        assert 1e-4 < chi2(n_rows - 1).cdf(spread) < 1 - 1e-4


@pytest.mark.parametrize("draw", [draw_systematic, draw_iid])
def test_order_is_shuffled_and_repeats_are_spread(draw):
    grouped, weights = classes_of([1000, 9000], [5.0, 0.5])
    order = draw(grouped, np.random.default_rng(0))
    halves = weights[order[:5000]].mean(), weights[order[5000:]].mean()
    assert halves[0] == pytest.approx(halves[1], rel=0.1)
    assert (order[1:] == order[:-1]).mean() < 0.01


@pytest.mark.parametrize("draw", [draw_systematic, draw_iid])
def test_weight_zero_is_never_drawn(draw):
    grouped, weights = classes_of([50, 50, 0], [0.3, 0.0, 1.0])
    for seed in range(20):
        assert weights[draw(grouped, np.random.default_rng(seed))].min() > 0


def test_counts_of_a_million_rows_are_floor_or_ceiling():
    grouped, weights = classes_of([10_000, 90_001, 300_000, 500_000, 99_999], WEIGHTS)
    counts = np.bincount(draw_systematic(grouped, np.random.default_rng(0)), minlength=len(weights))
    for weight, expected in zip(grouped.weights, grouped.expected_counts(), strict=True):
        assert set(np.unique(counts[weights == weight])) <= {int(expected), int(expected) + 1}


def test_small_classes_are_rounded_at_random_not_always_down():
    grouped, _ = classes_of([1, 1, 1], [1.0, 2.0, 4.0])
    counts = sum(
        np.bincount(draw_systematic(grouped, np.random.default_rng(seed)), minlength=3) for seed in range(2_000)
    )
    by_weight = counts[grouped.rows] / 2_000
    np.testing.assert_allclose(by_weight, [3 / 7, 6 / 7, 12 / 7], atol=0.05)
