"""The threshold changes only if held-out groups gain significantly."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta, norm
from sklearn.metrics import matthews_corrcoef

from roadwork.calibration.figures import Costs, at_prior, figures_with_intervals, parse_prior, rate_interval
from roadwork.calibration.threshold import Cuts, choose_threshold, evaluate_out_of_bag
from roadwork.core.errors import ConfigError
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import probability


def draw(rng, n_groups, shift=0.0, separation=1.5):
    """Rows in correlated groups of 4 with one label; the best threshold in logits is `shift`."""
    groups = np.repeat(np.arange(n_groups), 4)
    labels = rng.integers(0, 2, n_groups)[groups]
    noise = rng.normal(0, 1.2, n_groups)[groups] + rng.normal(0, 0.9, len(groups))
    return labels, probability(separation * (2 * labels - 1) + shift + noise), groups


def true_mcc(threshold, shift, separation=1.5):
    found, alarms = (norm.sf((logit(threshold) - shift - side * separation) / 1.5) for side in (1, -1))
    return float(mcc(np.array([1 - alarms, alarms, 1 - found, found])))


def test_shifted_detector_gets_its_threshold_and_unbiased_gain():
    choice = choose_threshold(*draw(np.random.default_rng(0), 500, shift=2.0), prior=None, draws=200, seed=0)
    low, high = choice.out_of_bag.threshold_interval
    assert choice.kept
    assert low < expit(2.0) < high
    assert low <= choice.threshold <= high
    assert "+" in choice.sentence
    gain = true_mcc(choice.threshold, 2.0) - true_mcc(0.5, 2.0)
    assert choice.out_of_bag.gain_interval[0] < gain < choice.out_of_bag.gain_interval[1]


def test_correct_threshold_is_rarely_moved():
    rng, kept, honest, flattered, lowest, truth = np.random.default_rng(0), 0, [], [], [], []
    for seed in range(40):
        drawn = draw(rng, 60)
        choice = choose_threshold(*drawn, prior=None, draws=200, seed=seed)
        kept += choice.kept
        honest.append(choice.out_of_bag.gain)
        lowest.append(choice.out_of_bag.gain_interval[0])
        flattered.append(choice.best_mcc - matthews_corrcoef(drawn[0], drawn[1] >= 0.5))
        truth.append(true_mcc(choice.best, 0.0) - true_mcc(0.5, 0.0))
        assert choice.threshold == (choice.best if choice.kept else 0.5)
    assert kept <= 3
    assert sum(low > gain for low, gain in zip(lowest, truth, strict=True)) <= 4  # 1 of 40 is expected
    assert np.mean(flattered) > 0.02  # the in-sample gain is biased high
    assert np.mean(truth) < 0
    assert np.mean(honest) < np.mean(truth) + 0.01


def test_few_groups_keep_threshold_one_half():
    labels, groups = np.repeat([0, 1], 40), np.repeat(np.arange(20), 4)
    logits = np.where(labels == 1, 3.0, -3.0)
    logits[:8] = 0.5  # two groups would be right at a higher threshold
    choice = choose_threshold(labels, probability(logits), groups, prior=None, draws=200, seed=0)
    assert choice.best > 0.5
    assert (choice.kept, choice.threshold) == (False, 0.5)
    assert choice.deciding_groups == pytest.approx(2)
    assert "2.0 effective groups" in choice.sentence


def test_threshold_stays_without_a_better_cut():
    labels = np.tile([0, 1], 30)
    choice = choose_threshold(labels, np.where(labels == 1, 0.9, 0.3), np.arange(60), prior=None, draws=200, seed=0)
    assert (choice.threshold, choice.deciding_groups) == (0.5, 0)


def test_always_wrong_detector_keeps_one_half():
    labels = np.tile([0, 1], 30)
    choice = choose_threshold(labels, np.where(labels == 1, 0.1, 0.9), np.arange(60), prior=None, draws=200, seed=0)
    assert (choice.kept, choice.threshold) == (False, 0.5)
    assert "better than chance" in choice.sentence


def test_out_of_bag_equals_a_plain_loop():
    """The loop draws groups, chooses a threshold, decides the other groups, and averages by group."""
    labels, probabilities, groups = draw(np.random.default_rng(3), 12)
    found = evaluate_out_of_bag(labels, probabilities, groups, prior=0.2, draws=200, seed=5)
    rng, decided = np.random.default_rng(5), {group: [] for group in range(12)}
    for _ in range(200):
        chosen = rng.integers(12, size=12)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in chosen])
        cuts = Cuts(labels[rows], probabilities[rows])
        threshold = cuts.thresholds[cuts.best(0.2)]
        for group in set(range(12)) - set(chosen):
            decided[group].append(probabilities[groups == group] >= threshold)
    for group, decisions in decided.items():
        share, mine = np.mean(decisions, axis=0), labels[groups == group]
        expected = [
            ((1 - mine) * (1 - share)).sum(),
            ((1 - mine) * share).sum(),
            (mine * (1 - share)).sum(),
            (mine * share).sum(),
        ]
        np.testing.assert_allclose(found.chosen[group], expected)
    assert found.gain == pytest.approx(
        mcc(at_prior(found.chosen.sum(axis=0), 0.2)) - mcc(at_prior(found.at_half.sum(axis=0), 0.2))
    )


def test_metrics_at_a_prior_equal_weighted_metrics():
    counts = np.array([[90, 10, 2, 8], [80, 20, 0, 0], [0, 0, 1, 9]])
    figures = figures_with_intervals(counts, 0.01, Costs(miss=20, false_alarm=1))
    alarms, found = 30 / 200, 17 / 20
    assert figures["precision"] == pytest.approx(0.01 * found / (0.01 * found + 0.99 * alarms))
    assert figures["recall"] == pytest.approx(found)
    assert figures["cost"] == pytest.approx(20 * 0.01 * (1 - found) + 0.99 * alarms)
    labels, decisions = np.repeat([0, 0, 1, 1], (170, 30, 3, 17)), np.repeat([0, 1, 0, 1], (170, 30, 3, 17))
    weights = np.where(labels == 1, 0.01 / 20, 0.99 / 200)
    assert figures["mcc"] == pytest.approx(matthews_corrcoef(labels, decisions, sample_weight=weights))
    for name in ("mcc", "precision", "recall", "cost"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]


def test_precision_bound_is_low_at_a_rare_prior():
    counts = np.tile([[4, 0, 0, 0], [0, 0, 0, 4]], (50, 1))
    figures = figures_with_intervals(counts, 0.01, Costs())
    assert figures["precision"] == 1.0
    assert figures["precision_low"] < 0.25
    assert rate_interval(counts[:, 1], counts[:, :2].sum(axis=1)) == pytest.approx((0, beta.ppf(0.9875, 1, 50)))


def test_precision_is_undefined_without_detections():
    figures = figures_with_intervals(np.array([[5, 0, 5, 0]] * 3), None, Costs())
    assert figures["precision"] is None
    assert figures["mcc"] == 0


@pytest.mark.parametrize(("text", "prior"), [("sample", None), ("balanced", 0.5), ("0.01", 0.01)])
def test_prior_is_a_name_or_a_share(text, prior):
    assert parse_prior(text) == prior


@pytest.mark.parametrize("text", ["0", "1", "-0.1", "1.5", "nan", "rare"])
def test_any_other_prior_is_rejected(text):
    with pytest.raises(ConfigError, match=rf"--prior is {text};.*sample, balanced"):
        parse_prior(text)
