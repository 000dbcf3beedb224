"""Conformal risk control: the guarantee in simulation, by group, and its limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit

from roadwork.calibration.abstain import choose_band, groups_needed
from roadwork.metrics.decision import probability


def draw_groups(rng, n_groups):
    """Rows in correlated groups of 1 to 8; the error rate at 0.5 is 20 %."""
    sizes = rng.integers(1, 9, n_groups)
    groups = np.repeat(np.arange(n_groups), sizes)
    labels = rng.integers(0, 2, n_groups)[groups]
    margin = rng.normal(1.2, 1, n_groups)[groups] + rng.normal(0, 1, len(groups))
    return labels, probability(np.where(labels == 1, margin, -margin)), groups


def mean_loss(labels, probabilities, groups, band, threshold=0.5):
    """Share of wrong decisions without abstention, averaged within each group, then over groups."""
    wrong = ~band.abstains(probabilities) & ((probabilities >= threshold) != labels)
    return (np.bincount(groups, wrong) / np.bincount(groups)).mean()


@pytest.mark.parametrize(("risk", "n_groups"), [(0.05, 40), (0.1, 30), (0.1, 120)])
def test_expected_loss_of_a_new_group_is_at_most_the_risk(risk, n_groups):
    rng = np.random.default_rng(0)
    population = draw_groups(rng, 4000)  # stands for one new group, with less noise
    assert mean_loss(*population, choose_band(*population, threshold=0.5, risk=0.999)) > 0.15
    losses = []
    for _ in range(400):
        band = choose_band(*draw_groups(rng, n_groups), threshold=0.5, risk=risk)
        losses.append(mean_loss(*population, band))
    error = 4 * np.std(losses) / np.sqrt(len(losses))
    assert np.mean(losses) <= risk + error
    # The method abstains no more than needed: its loss is at most 2 / (n + 1) below the risk.
    assert np.mean(losses) >= risk - 2 / (n_groups + 1) - error


def test_bound_breaks_without_the_correction():
    """The empirical risk alone, without the n + 1 correction, exceeds the risk in the simulation."""
    rng = np.random.default_rng(0)
    population, losses = draw_groups(rng, 4000), []
    for _ in range(400):
        uncorrected = (30 * 0.1 + 1) / 31  # the risk at which the corrected bound is the empirical 0.1
        band = choose_band(*draw_groups(rng, 30), threshold=0.5, risk=uncorrected)
        losses.append(mean_loss(*population, band))
    assert np.mean(losses) > 0.1


rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-6, 6).map(lambda x: x / 2), st.integers(0, 5)), min_size=1, max_size=40
)


@given(rows, st.floats(0.01, 0.9), st.floats(0.1, 0.9))
@settings(max_examples=150, deadline=None)
def test_band_is_the_narrowest_within_the_bound(drawn, risk, threshold):
    labels, differences, groups = (np.array(column) for column in zip(*drawn, strict=True))
    groups = np.unique(groups, return_inverse=True)[1]
    probabilities = probability(differences.astype(float))
    band = choose_band(labels, probabilities, groups, threshold=threshold, risk=risk)
    n_groups = groups.max() + 1

    def bound_with(half_width):
        is_decided = np.abs(logit(probabilities) - logit(threshold)) > half_width
        wrong = is_decided & ((probabilities >= threshold) != labels)
        return (mean_loss_of(wrong, groups) * n_groups + 1) / (n_groups + 1)

    # Candidates: no band, and half widths just above each row's distance.
    distances = np.unique(np.abs(logit(probabilities) - logit(threshold)))
    enough = [width for width in (-1.0, *(distances + 1e-7)) if bound_with(width) <= risk + 1e-9]
    if not enough:
        assert (band.low, band.high) == (0.0, 1.0)
    elif enough[0] < 0:
        assert band.low is None
        assert not band.abstains(probabilities).any()
    else:
        np.testing.assert_array_equal(
            band.abstains(probabilities), np.abs(logit(probabilities) - logit(threshold)) <= enough[0]
        )
        assert band.bound == pytest.approx(bound_with(enough[0]))


def mean_loss_of(wrong, groups):
    return (np.bincount(groups, wrong) / np.bincount(groups)).mean()


@pytest.mark.parametrize(("risk", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_groups_needed_is_the_smallest_sufficient(risk, needed):
    assert groups_needed(risk) == needed
    for n_groups in (needed, needed - 1):
        if n_groups:
            labels = np.arange(n_groups) % 2
            band = choose_band(
                labels, np.where(labels == 1, 0.9, 0.1), labels * 0 + np.arange(n_groups), threshold=0.5, risk=risk
            )
            assert (band.low is None) == (n_groups == needed)


def test_abstention_grows_as_the_risk_falls():
    rng = np.random.default_rng(1)
    drawn = draw_groups(rng, 200)
    shares = [
        choose_band(*drawn, threshold=0.5, risk=risk).abstains(drawn[1]).mean() for risk in (0.3, 0.1, 0.05, 0.01)
    ]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1] > shares[1] > 0) == (0, True)
