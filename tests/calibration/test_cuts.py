"""The threshold sweep against brute force with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.metrics import matthews_corrcoef

from roadwork.calibration.threshold import Cuts
from roadwork.metrics.classification import count_confusion, mcc
from roadwork.metrics.decision import probability

few_values = st.integers(-3, 3).map(float)  # many ties
any_values = st.floats(-1e4, 1e4)
rows = st.one_of(
    st.lists(st.tuples(st.integers(0, 1), few_values), min_size=1, max_size=16),
    st.lists(st.tuples(st.integers(0, 1), any_values), min_size=1, max_size=16),
)


def unpack(drawn):
    labels, differences = (np.array(column) for column in zip(*drawn, strict=True))
    return labels, differences


def weighted_mcc(labels, decisions, prior):
    """scikit-learn's MCC with rows weighted to a prior; None: unweighted."""
    if len({*labels, *decisions}) == 1:
        return 0.0  # scikit-learn's value, without its warning
    if prior is None:
        return matthews_corrcoef(labels, decisions)
    weights = np.where(labels == 1, prior / (labels == 1).sum(), (1 - prior) / (labels == 0).sum())
    return matthews_corrcoef(labels, decisions, sample_weight=weights)


def brute_force(labels, probabilities, prior):
    thresholds = [0.0, *np.unique(probabilities), 1.0]
    return max(weighted_mcc(labels, (probabilities >= t).astype(int), prior) for t in thresholds)


@given(rows, st.sampled_from([None, 0.5, 0.01]))
@settings(max_examples=60, deadline=None)
def test_best_cut_equals_brute_force(drawn, prior):
    labels, differences = unpack(drawn)
    if len(set(labels)) == 1:
        prior = None  # one class cannot be weighted to a prior
    probabilities = probability(differences)
    cuts = Cuts(labels, probabilities)
    threshold = cuts.thresholds[cuts.best(prior)]
    found = weighted_mcc(labels, (probabilities >= threshold).astype(int), prior)
    assert found == pytest.approx(brute_force(labels, probabilities, prior), abs=1e-9)
    assert np.isfinite(logit(threshold))


@given(rows)
@settings(max_examples=100, deadline=None)
def test_cut_counts_match_threshold_decisions(drawn):
    labels, differences = unpack(drawn)
    probabilities = probability(differences)
    cuts = Cuts(labels, probabilities)
    assert len(cuts.thresholds) == len(np.unique(probabilities)) + 1
    assert (np.diff(cuts.thresholds) > 0).all()
    for threshold, counts in zip(cuts.thresholds, cuts.counts, strict=True):
        np.testing.assert_array_equal(counts, count_confusion(labels, probabilities, threshold))


@given(rows, st.floats(-3, 3))
@settings(max_examples=60, deadline=None)
def test_threshold_shifts_with_the_logits(drawn, shift):
    labels, differences = unpack(drawn)
    differences = np.round(np.clip(differences, -8, 8), 2)  # float64 can represent the gaps
    cuts, shifted = (Cuts(labels, probability(d)) for d in (differences, differences + shift))
    np.testing.assert_array_equal(cuts.counts, shifted.counts)
    np.testing.assert_allclose(logit(shifted.thresholds), logit(cuts.thresholds) + shift, atol=1e-7)


def test_repeating_a_class_equals_a_prior():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    probabilities = probability(rng.normal(labels, 1))
    often = np.concatenate([np.arange(120), *[np.arange(60)] * 8])
    by_prior, by_rows = Cuts(labels, probabilities), Cuts(labels[often], probabilities[often])
    assert by_prior.best(0.1) == by_rows.best(None) != by_prior.best(None)


def test_threshold_is_the_midpoint_of_the_gap():
    labels, differences = np.array([0, 0, 1, 1]), np.array([-5.0, -1.0, 3.0, 4.0])
    cuts = Cuts(labels, probability(differences))
    assert logit(cuts.thresholds[cuts.best(None)]) == pytest.approx(1.0)


def test_ties_between_cuts_take_the_widest_gap():
    # Symmetric: a cut at -1 and one at 1 have the same MCC.
    labels = np.array([0, 0, 1, 0, 1, 1])
    differences = np.array([-9.0, -8.0, -1.0, 0.5, 8.0, 9.0])
    cuts = Cuts(labels, probability(differences))
    threshold = logit(cuts.thresholds[cuts.best(None)])
    assert threshold == pytest.approx(4.25)  # 0.5 to 8, and not -8 to -1


def test_always_wrong_detector_gets_a_finite_threshold():
    labels, differences = np.array([1, 1, 0, 0]), np.array([-1e4, -1e4, 1e4, 1e4])
    cuts = Cuts(labels, probability(differences))
    best = cuts.best(None)
    assert best in (0, len(cuts.thresholds) - 1)
    assert mcc(cuts.counts[best]) == 0
    assert 0 < cuts.thresholds[best] < 1


def test_adjacent_float64_values_are_separated():
    probabilities = np.array([0.3, np.nextafter(0.3, 1)])
    cuts = Cuts(np.array([0, 1]), probabilities)
    assert (probabilities >= cuts.thresholds[cuts.best(None)]).tolist() == [False, True]
