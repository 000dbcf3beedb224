"""Curves and bins against scikit-learn and direct counts."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from roadwork.metrics.classification import expected_calibration_error
from roadwork.report.charts import ranking_curves, reliability_bins


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    labels = rng.integers(0, 2, 240)
    probabilities = np.round(np.clip(0.5 + 0.25 * (2 * labels - 1) + rng.normal(0, 0.2, 240), 0.01, 0.99), 2)  # ties
    return labels, probabilities, groups


def test_areas_under_curves_match_scikit_learn(rows):
    labels, probabilities, _ = rows
    curves = ranking_curves(labels, probabilities)
    assert np.trapezoid(curves.roc[:, 1], curves.roc[:, 0]) == pytest.approx(roc_auc_score(labels, probabilities))
    recall, precision = curves.precision_recall.T
    average = np.sum(np.diff(recall, prepend=0) * precision)
    assert average == pytest.approx(average_precision_score(labels, probabilities))
    assert curves.roc[0].tolist() == [0, 0]
    assert curves.roc[-1].tolist() == [1, 1]


def test_curves_are_thinned_and_keep_both_ends():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 5000)
    roc = ranking_curves(labels, rng.uniform(0.1, 0.9, 5000)).roc
    assert len(roc) == 300
    assert roc[0].tolist() == [0, 0]
    assert roc[-1].tolist() == [1, 1]


def test_bins_contain_all_rows_and_give_the_ece(rows):
    labels, probabilities, groups = rows
    bins = reliability_bins(labels, probabilities, groups, 10)
    assert sum(part.n for part in bins) == 240
    assert max(part.n for part in bins) < 40
    error = sum(part.n * abs(part.probability - part.share) for part in bins) / 240
    assert error == pytest.approx(expected_calibration_error(labels, probabilities, 10))
    for part in bins:
        assert part.interval[0] <= part.share <= part.interval[1]
        assert 0 <= part.interval[0] < part.interval[1] <= 1


def test_fewer_groups_give_wider_intervals():
    labels, probabilities = np.tile([0, 1, 1, 1], 10), np.full(40, 0.7)
    (alone,) = reliability_bins(labels, probabilities, np.arange(40))
    (together,) = reliability_bins(labels, probabilities, np.repeat(np.arange(5), 8))
    assert (alone.groups, together.groups) == (40, 5)
    assert together.interval[0] < alone.interval[0] < 0.75 < alone.interval[1] < together.interval[1]
