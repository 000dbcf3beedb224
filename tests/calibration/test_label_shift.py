"""The share of Roadwork in photos without labels, on planted shifts."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import confusion_matrix

from roadwork.calibration.label_shift import ScoreHistogram, count_bins, design_effect, estimate_prior, fit_share


def draw(share, n=400, seed=0, offset=0.0, scale=1.0, per_group=1):
    """Labels, log-odds and groups; without a shift, sigmoid(log-odds) is calibrated at a share of 0.5."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), per_group)
    labels = (rng.random(n) < share).astype(int)[groups]
    # The log likelihood ratio of N(2, 4) and N(-2, 4) at z is z.
    scores = 2 * (2 * labels - 1) + 2 * rng.normal(size=len(labels))
    return labels, scale * scores + offset, groups


@pytest.fixture(scope="module")
def scores():
    return ScoreHistogram.fit(*draw(0.5, 800, seed=99), 0.3)


def estimate(scores, *args, **kwargs):
    return estimate_prior(scores, *draw(*args, **kwargs)[1:])


def test_histogram_has_the_confusion_matrix_of_scikit_learn():
    labels, log_odds, groups = draw(0.3, 500)
    found = ScoreHistogram.fit(labels, log_odds, groups, 0.3)
    (tn, fp), (fn, tp) = confusion_matrix(labels, log_odds >= 0.3)
    assert (sum(found.none[: found.above]), sum(found.none[found.above :])) == (tn, fp)
    assert (sum(found.roadwork[: found.above]), sum(found.roadwork[found.above :])) == (fn, tp)
    assert found.rates(0.3) == pytest.approx((tp / (fn + tp), fp / (tn + fp)))
    assert found.prior == pytest.approx(labels.mean())
    assert ScoreHistogram.from_json(json.loads(json.dumps(asdict(found)))) == found


@pytest.mark.parametrize("share", [0.05, 0.2, 0.8])
def test_planted_share_is_in_both_intervals(scores, share):
    found = estimate(scores, share, 600, seed=4)
    assert not found.reasons
    assert found.low <= share <= found.high
    assert found.bbse_low <= share <= found.bbse_high
    assert found.high - found.low < 0.15


def test_em_agrees_with_its_textbook_iteration(scores):
    """Saerens' iteration on every photo's own true posterior at the share of 0.5."""
    _, log_odds, groups = draw(0.2, 600, seed=3)
    posterior, share = expit(log_odds), 0.5
    for _ in range(500):
        weighed = share * posterior / (share * posterior + (1 - share) * (1 - posterior))
        share = weighed.mean()
    assert estimate_prior(scores, log_odds, groups).prior == pytest.approx(share, abs=0.03)
    ratios = np.exp(log_odds)[None]
    assert fit_share(np.ones_like(ratios), ratios)[0] == pytest.approx(share, abs=1e-6)


def test_bbse_solves_the_confusion_matrix(scores):
    labels, log_odds, _ = draw(0.5, 800, seed=99)
    _, new, new_groups = draw(0.2, 600, seed=3)
    (tn, fp), (fn, tp) = confusion_matrix(labels, log_odds >= 0.3, normalize="true")
    share = np.linalg.solve([[tn, fn], [fp, tp]], [(new < 0.3).mean(), (new >= 0.3).mean()])[1]
    assert estimate_prior(scores, new, new_groups).bbse == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("shift", [{"offset": 2.0}, {"offset": -2.0}, {"scale": 0.5}, {"scale": 2.0}], ids=str)
def test_other_shifts_are_refused(scores, shift):
    found = estimate(scores, 0.3, 600, **shift)
    assert found.p_value < 0.01
    assert any("no mixture" in reason for reason in found.reasons)


def test_false_refusals_are_rare(scores):
    refused = [bool(estimate(scores, 0.2, 300, seed=seed).reasons) for seed in range(12)]
    assert sum(refused) <= 3


def test_few_groups_and_weak_detectors_are_refused(scores):
    assert any("10 groups" in reason for reason in estimate(scores, 0.5, 10, per_group=20).reasons)
    labels, log_odds, groups = draw(0.5, 400)
    weak = ScoreHistogram.fit(np.random.default_rng(0).permutation(labels), log_odds, groups, 0.0)
    assert any("interval" in reason for reason in estimate_prior(weak, log_odds, groups).reasons)


def test_frames_of_a_group_count_as_few():
    """Twenty copies of each photo: the same estimate, and an interval that is not narrower."""
    labels, log_odds, groups = draw(0.5, 100, seed=1)
    copies = [np.repeat(values, 20) for values in (labels, log_odds, groups)]
    one, many = (ScoreHistogram.fit(*rows, 0.0) for rows in ((labels, log_odds, groups), copies))
    assert many.design_effects == pytest.approx((20, 20), rel=0.1)
    edges = np.array(one.edges)
    assert design_effect(count_bins(log_odds, groups, edges)) == pytest.approx(1, abs=0.05)
    _, new, new_groups = draw(0.3, 200, seed=2)
    first = estimate_prior(one, new, new_groups)
    second = estimate_prior(one, np.repeat(new, 20), np.repeat(new_groups, 20))
    assert second.prior == pytest.approx(first.prior)
    assert second.high - second.low == pytest.approx(first.high - first.low, rel=0.2)
