import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from roadwork.core.errors import ConfigError, DataError
from roadwork.evaluation.streetvision.reward import reward_of, simulate_reward


def detector(error_rate, rows=2000):
    """Labels, half of each, and decisions of which this share is wrong in either class."""
    labels = np.repeat([0, 1], rows // 2)
    wrong = np.arange(rows) % (rows // 2) < round(error_rate * rows / 2)
    return labels, np.where(wrong, 1 - labels, labels)


@pytest.mark.parametrize(("error_rate", "expected"), [(0.01, 0.957), (0.05, 0.797), (0.10, 0.625)])
def test_the_expected_reward_by_error_rate(error_rate, expected):
    assert simulate_reward(*detector(error_rate), windows=100_000).mean == pytest.approx(expected, abs=0.0012)


def test_a_window_is_paid_by_its_mcc_and_its_last_ten_answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (50, 100))
    decisions = np.where(rng.random((50, 100)) < 0.2, 1 - labels, labels)
    decisions[0] = 1 - labels[0]  # an MCC of -1 counts 0
    decisions[1] = 1
    labels[2] = 0
    expected = [
        (0.5 * max(0.0, matthews_corrcoef(y, d)) + 0.5 * np.mean(y[-10:] == d[-10:])) ** 3
        for y, d in zip(labels, decisions, strict=True)
    ]
    assert reward_of(labels, decisions) == pytest.approx(expected)


def test_the_extremes():
    perfect, never = simulate_reward(*detector(0.0)), simulate_reward(np.array([0, 1]), np.array([0, 0]))
    assert (perfect.mean, perfect.low, perfect.windows) == (1.0, 1.0, 2000)
    assert never.mean == pytest.approx(
        0.5**3 * np.mean(np.random.default_rng(1).binomial(10, 0.5, 10**5) ** 3) / 1000, abs=0.003
    )


def test_labels_are_drawn_equally_whatever_the_sample():
    labels = np.array([0] * 990 + [1] * 10)
    decisions = labels.copy()
    decisions[-10:-5] = 0  # half of the few with roadwork
    equal = np.repeat([0, 1], 10), np.array([0] * 15 + [1] * 5)
    assert simulate_reward(labels, decisions) == simulate_reward(*equal)


def test_the_low_end_is_the_fifth_percentile_and_seeds_repeat():
    labels, decisions = detector(0.1)
    first, again, other = (simulate_reward(labels, decisions, seed=seed, windows=4000) for seed in (0, 0, 1))
    assert first == again != other
    assert first.low < first.mean
    assert first.low == pytest.approx(0.4, abs=0.02)
    assert abs(first.mean - other.mean) < 0.02


def test_what_cannot_be_simulated_is_named():
    with pytest.raises(DataError, match="both labels"):
        simulate_reward(np.ones(5, dtype=int), np.ones(5, dtype=int))
    with pytest.raises(DataError, match="both labels"):
        simulate_reward(np.empty(0, dtype=int), np.empty(0, dtype=int))
    with pytest.raises(ConfigError, match=r"windows.*\b0\b"):
        simulate_reward(*detector(0.1), windows=0)
