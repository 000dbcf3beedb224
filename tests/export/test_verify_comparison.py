"""Comparison of decisions: changes, ties, and differences above the limit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.core.errors import DataError
from roadwork.export.parity import compare
from roadwork.metrics.decision import unfold, unfold_score


def compared(expected, found, **options):
    photos = [f"{row}.jpg" for row in range(len(expected))]
    options = {"threshold": 0.4, "tie": 1e-5} | options
    return compare("test", photos, np.array(expected), np.array(found), **options)


def test_changed_decision_lists_both_probabilities():
    result = compared([0.3, 0.39, 0.41], [0.3, 0.41, 0.39])
    assert [(c.photo, c.expected, c.found) for c in result.changed] == [("1.jpg", 0.39, 0.41), ("2.jpg", 0.41, 0.39)]
    assert not result.is_right
    assert result.max_difference == pytest.approx(0.02)


def test_tie_does_not_fail():
    result = compared([0.4 - 4e-6, 0.7], [0.4 + 4e-6, 0.7])
    assert [c.photo for c in result.ties] == ["0.jpg"]
    assert result.is_right


@pytest.mark.parametrize(("expected", "found"), [(0.4 - 4e-6, 0.4 + 2e-5), (0.4 - 2e-5, 0.4 + 4e-6)])
def test_tie_needs_both_sides_near_the_threshold(expected, found):
    result = compared([expected], [found])
    assert result.ties == []
    assert not result.is_right


def test_threshold_itself_is_roadwork():
    assert compared([0.4], [0.4 + 1e-3], tie=0).is_right
    assert not compared([0.4], [0.4 - 1e-3], tie=0).is_right


def test_large_difference_fails_with_equal_decisions():
    assert compared([0.8], [0.8 + 2e-5], limit=None).is_right
    assert compared([0.8], [0.8 + 5e-6], limit=1e-5).is_right
    assert not compared([0.8], [0.8 + 2e-5], limit=1e-5).is_right


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_nan_probability_is_an_error(broken):
    with pytest.raises(DataError, match=r"1\.jpg.*number"):
        compared([0.1, 0.2], [0.1, broken])


@settings(deadline=None)
@given(d=st.floats(-20, 20), threshold=st.floats(0.01, 0.99))
def test_softmax_score_becomes_the_calibrated_probability(d, threshold):
    logits = torch.tensor([[-d / 2, d / 2]], dtype=torch.float64)
    score = logits.softmax(1)[:, 1].numpy()
    expected = unfold(logits, threshold).numpy()
    np.testing.assert_allclose(unfold_score(score, threshold), expected, atol=1e-9)


def test_scores_of_0_and_1_are_unchanged():
    assert unfold_score(np.array([0.0, 1.0]), 0.3).tolist() == [0.0, 1.0]
