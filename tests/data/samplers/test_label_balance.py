"""Balanced labels: the weighting changes the distances of the drawn rows, but not their labels."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.core.errors import DataError
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler

PLACE = np.array([[0.0, 10.0]])
# About 0, 111, 333 and 1,112 km from the deployment, and without GPS: the five classes of the default brackets.
LATITUDES = np.array([0.0, 1.0, 3.0, 10.0, np.nan])
BRACKET_WEIGHTS = np.array([5.0, 2.5, 1.0, 0.3, 1.0])


class Labelled:
    def __init__(self, counts, seed=0):
        """Rows by bracket: counts (5, 2) of label 0 and 1."""
        counts = np.asarray(counts)
        order = np.random.default_rng(seed).permutation(counts.sum())
        self.bracket = np.repeat(np.arange(5), counts.sum(axis=1))[order]
        self.labels = np.concatenate([np.repeat([0, 1], pair) for pair in counts])[order]
        latitude = LATITUDES[self.bracket]
        self.gps = np.stack([latitude, np.where(np.isnan(latitude), np.nan, 10.0)], axis=1)

    def __len__(self):
        return len(self.gps)


def balanced(data, **options):
    return GPSWeightedSampler(data, PLACE, 1, balance_labels=True, **options)


SKEWED = [[20, 180], [100, 100], [300, 100], [900, 100], [150, 50]]


def test_each_bracket_gets_the_overall_share_of_roadwork():
    data = Labelled(SKEWED)
    sampler = balanced(data)
    prior = data.labels.mean()
    for bracket, weight in enumerate(BRACKET_WEIGHTS):
        rows = data.bracket == bracket
        assert sampler.weights[rows].sum() == pytest.approx(weight * rows.sum())
        assert sampler.weights[rows & (data.labels == 1)].sum() == pytest.approx(prior * weight * rows.sum())
        for label in (0, 1):  # within bracket and label all rows weigh the same
            assert np.ptp(sampler.weights[rows & (data.labels == label)]) == 0


def test_draws_keep_the_prior_only_with_balancing():
    data = Labelled(SKEWED)
    prior = data.labels.mean()
    by_distance = GPSWeightedSampler(data, PLACE, 1)
    assert data.labels[list(by_distance)].mean() > prior + 0.15
    for draw, tolerance in (("systematic", 2 / len(data)), ("iid", 0.04)):
        sampler = balanced(data, draw=draw)
        assert data.labels[list(sampler)].mean() == pytest.approx(prior, abs=tolerance)


def test_summary_has_prior_effective_size_and_correlation():
    data = Labelled(SKEWED)
    sampler, by_distance = balanced(data), GPSWeightedSampler(data, PLACE, 1)
    summary, labels = sampler.summary(), sampler.summary().labels
    assert labels.share_of_rows == pytest.approx(data.labels.mean())
    assert labels.share_by_distance == pytest.approx(np.average(data.labels, weights=by_distance.weights))
    assert labels.share_of_draws == pytest.approx(labels.share_of_rows)
    assert labels.correlation_by_distance == pytest.approx(np.corrcoef(by_distance.weights, data.labels)[0, 1])
    assert labels.correlation == pytest.approx(0, abs=1e-12)
    assert summary.effective_rows == pytest.approx(sampler.weights.sum() ** 2 / (sampler.weights**2).sum())
    assert summary.draw_shares == pytest.approx(by_distance.summary().draw_shares)
    text = str(summary)
    assert "share of Roadwork: of rows 26.5%, of draws by distance alone 55.4%, with labels balanced 26.5%" in text
    assert f"correlation of weight and label: by distance alone {labels.correlation_by_distance:+.2f}" in text
    assert "not balanced" not in text
    km = sampler.distances_km
    known = ~np.isnan(km)
    assert summary.mean_distance_weighted_km == pytest.approx(np.average(km[known], weights=sampler.weights[known]))


def test_unbalanced_sampling_reports_the_prior_shift():
    summary = GPSWeightedSampler(Labelled(SKEWED), PLACE, 1).summary()
    assert "of rows 26.5%, of draws by distance alone 55.4%\n" in str(summary)
    assert summary.labels.share_of_draws == summary.labels.share_by_distance


def test_bracket_of_one_label_is_kept_with_a_warning():
    data = Labelled([[50, 0], [10, 30], [0, 20], [200, 100], [0, 0]])
    sampler = balanced(data)
    assert set(sampler.weights[data.bracket == 0]) == {5.0}
    assert set(sampler.weights[data.bracket == 2]) == {1.0}
    assert sampler.summary().labels.unbalanced == ("0-50 km", "200-500 km")  # and not the empty one
    assert "one label: 0-50 km, 200-500 km" in str(sampler.summary())


def test_dataset_of_one_label_stays_as_it_is():
    data = Labelled([[10, 0], [10, 0], [0, 0], [30, 0], [0, 0]])
    np.testing.assert_array_equal(balanced(data).weights, GPSWeightedSampler(data, PLACE, 1).weights)
    assert np.isnan(balanced(data).summary().labels.correlation)
    assert "correlation" not in str(balanced(data).summary())


@settings(deadline=None, max_examples=100)
@given(
    counts=st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=5, max_size=5).filter(
        lambda counts: sum(map(sum, counts))
    ),
    seed=st.integers(0, 99),
)
def test_draws_are_exact_by_bracket_and_label(counts, seed):
    data = Labelled(counts, seed)
    sampler = balanced(data, random_seed=seed)
    times = np.bincount(list(sampler), minlength=len(data))
    weights = [Fraction(float(weight)) for weight in sampler.weights]
    total = sum(weights)
    assert all(abs(n - len(data) * weight / total) < 1 for n, weight in zip(times.tolist(), weights, strict=True))


@pytest.mark.parametrize(
    "labels", [None, [0, 1], [[0], [0, 1]], np.full(1850, 2), np.full(1850, 0.5), np.full((1850, 2), 1)]
)
def test_labels_that_cannot_be_balanced(labels):
    data = Labelled(SKEWED)
    data.labels = labels
    data.gps = data.gps[:1850]
    with pytest.raises(DataError, match=r"balance_labels.*`labels`.*0 or 1"):
        balanced(data)
    # Without balancing, any labels are allowed.
    assert GPSWeightedSampler(data, PLACE, 1).summary().labels is None


def test_dataset_without_labels():
    data = Labelled(SKEWED)
    del data.labels
    assert GPSWeightedSampler(data, PLACE, 1).summary().labels is None
    with pytest.raises(DataError, match="balance_labels"):
        balanced(data)
