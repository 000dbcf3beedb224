"""NLL, Brier score and ECE against scikit-learn and netcal."""

import numpy as np
import pytest
from netcal.metrics import ECE
from sklearn.metrics import brier_score_loss, log_loss

from roadwork.metrics.classification import expected_calibration_error, score_probabilities


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.5, 0.5, 600).clip(1e-6, 1 - 1e-6)
    return (rng.random(600) < probabilities**2).astype(int), probabilities


def test_nll_and_brier_match_scikit_learn(drawn):
    labels, probabilities = drawn
    scores = score_probabilities(labels, probabilities)
    assert scores["nll"] == pytest.approx(log_loss(labels, probabilities))
    assert scores["brier"] == pytest.approx(brier_score_loss(labels, probabilities))


@pytest.mark.parametrize("bins", [5, 15, 20])
def test_ece_matches_netcal_with_equal_mass_bins(drawn, bins):
    labels, probabilities = drawn
    reference = ECE(bins=bins, equal_intervals=False).measure(probabilities, labels)
    assert expected_calibration_error(labels, probabilities, bins) == pytest.approx(reference, abs=1e-9)
    assert reference > 0.05  # the probabilities are overconfident


def test_ece_ignores_the_order_of_equal_probabilities():
    labels = np.repeat([0, 1], 50)
    probabilities = np.full(100, 0.5)
    assert expected_calibration_error(labels, probabilities) == 0
    assert expected_calibration_error(np.tile([0, 1], 50), probabilities) == 0
    assert expected_calibration_error(labels, np.where(labels == 1, 0.8, 0.2)) == pytest.approx(0.2)
