"""The fitted temperature against a grid search, and its use only if held-out groups improve."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import log_loss

from roadwork.calibration.temperature import choose_temperature, fit_temperature
from roadwork.metrics.decision import probability

numbers = st.floats(-1e4, 1e4, allow_subnormal=False).map(lambda x: round(x, 3))
rows = st.lists(st.tuples(st.integers(0, 1), numbers), min_size=2, max_size=40)


def nll(labels, differences, temperature):
    """NLL at one temperature, or at several (K, 1)."""
    return np.logaddexp(0, -np.where(labels == 1, differences, -differences) / temperature).mean(axis=-1)


def draw_rows(true_temperature, groups=200, rows_each=3, seed=0):
    """Labels that follow the probabilities of `differences / true_temperature` exactly."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(0, 4, groups * rows_each)
    labels = (rng.random(len(differences)) < expit(differences / true_temperature)).astype(int)
    return labels, differences, np.repeat(np.arange(groups), rows_each)


@given(rows)
@settings(max_examples=30, deadline=None)
def test_fitted_temperature_beats_a_grid_search(drawn):
    labels, differences = (np.array(column) for column in zip(*drawn, strict=True))
    signed = np.where(labels == 1, differences, -differences)
    assume(signed.min() < 0 < signed.mean())
    temperature = fit_temperature(labels, differences)
    grid = np.abs(differences).mean() * np.geomspace(0.01, 100, 300)
    best = nll(labels, differences, grid[:, None]).min()
    assert nll(labels, differences, temperature) <= best * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_true_temperature_is_found(true_temperature):
    labels, differences, _ = draw_rows(true_temperature, groups=4000)
    assert fit_temperature(labels, differences) == pytest.approx(true_temperature, rel=0.1)


@given(st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_scaled_logits_scale_the_temperature(factor):
    labels, differences, _ = draw_rows(2.0, groups=30)
    assert fit_temperature(labels, differences * factor) == pytest.approx(
        factor * fit_temperature(labels, differences), rel=1e-5
    )


@pytest.mark.parametrize(
    "differences", [[-1e4, -2, 3, 1e4], [1e4, 2, -3, -1e4], [0, 0, 0, 0], [-1e4, 1, -1, 1e4]],
    ids=["all correct", "all wrong", "all zero", "far apart"],
)  # fmt: skip
def test_temperature_is_finite_for_any_rows(differences):
    temperature = fit_temperature(np.array([0, 0, 1, 1]), np.array(differences, dtype=float))
    assert 0 < temperature < np.inf


def test_overconfident_detector_is_scaled_down():
    labels, differences, groups = draw_rows(3.0)
    fit = choose_temperature(labels, differences, groups, seed=0)
    assert fit.kept
    assert fit.temperature == fit.fitted == pytest.approx(fit_temperature(labels, differences))
    assert fit.before["nll"] == pytest.approx(log_loss(labels, expit(differences)))
    # The fit on all rows has the lowest NLL on these rows, so the out-of-fold NLL is higher.
    assert log_loss(labels, probability(differences, fit.fitted)) < fit.after["nll"] < fit.before["nll"]


def test_temperature_supported_by_one_group_is_not_kept():
    labels, differences, groups = draw_rows(1.0, groups=30)
    differences = np.where(labels == 1, 1, -1) * np.abs(differences)
    differences[groups == 0] *= -5  # all other rows are decided correctly
    fit = choose_temperature(labels, differences, groups, seed=0)
    assert nll(labels, differences, fit.fitted) < nll(labels, differences, 1.0)
    assert (fit.kept, fit.temperature) == (False, 1.0)
    assert f"{fit.after['nll']:.4f}" in fit.sentence


def test_rows_without_errors_do_not_raise_confidence():
    labels = np.tile([0, 1], 20)
    fit = choose_temperature(labels, np.where(labels == 1, 2.0, -2.0), np.arange(40), seed=0)
    assert fit.after["nll"] < fit.before["nll"]
    assert (fit.kept, fit.temperature) == (False, 1.0)


def test_too_few_groups_leave_the_temperature_at_one():
    fit = choose_temperature(np.array([0, 1, 0, 1]), np.array([-1.0, 2, 1, 1]), np.array(list("aabb")), seed=0)
    assert fit.n_folds == 2  # both groups have both labels
    fit = choose_temperature(np.array([0, 1, 0, 1]), np.array([-1.0, 2, 1, 1]), np.array(list("aaaa")), seed=0)
    assert (fit.temperature, fit.n_folds, fit.after) == (1.0, 0, None)


@given(st.lists(numbers, min_size=2, max_size=30), st.floats(0.01, 100))
def test_probabilities_are_monotone_and_in_range(differences, temperature):
    ordered = np.sort(np.array(differences))
    probabilities = probability(ordered, temperature)
    assert (np.diff(probabilities) >= 0).all()
    assert probabilities.min() > 0
    assert probabilities.max() < 1
