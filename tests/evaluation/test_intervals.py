import time

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from roadwork.evaluation.elsewhere_results import score_classes
from roadwork.metrics import intervals as iv
from roadwork.metrics.classification import CLASS_METRICS, Ranking, accuracy, mcc


def simulate(rng, *, groups, sizes, roadwork, failing, wrong_rows):
    """(G, 4) counts by group: a group of one class fails with probability `failing`, and then `wrong_rows(size)` do."""
    size = rng.choice(sizes, groups)
    is_roadwork = rng.random(groups) < roadwork
    wrong = np.where(rng.random(groups) < failing, wrong_rows(rng, size), 0)
    zero = np.zeros_like(size)
    of_none = np.stack([size - wrong, wrong, zero, zero], axis=1)
    of_roadwork = np.stack([zero, zero, wrong, size - wrong], axis=1)
    return np.where(is_roadwork[:, None], of_roadwork, of_none)


WRONG_ROWS = {
    "all": (lambda _rng, size: size, np.mean),
    "some": (lambda rng, size: rng.integers(1, size + 1), lambda sizes: np.mean(np.add(sizes, 1)) / 2),
    "one": (lambda _rng, size: np.ones_like(size), lambda _sizes: 1.0),
}


@pytest.mark.parametrize("wrong_rows", WRONG_ROWS)
@pytest.mark.parametrize(
    ("groups", "sizes", "roadwork", "failed_groups", "method"),
    [
        (120, [4], 0.5, 3, iv.CLOPPER_PEARSON),
        (120, [1, 2, 4, 8, 20], 0.3, 4, iv.CLOPPER_PEARSON),
        (120, [1, 3, 10], 0.5, 14, None),  # the data choose either
        (400, [1, 3], 0.2, 40, iv.BOOTSTRAP),
    ],
)
def test_intervals_cover_the_truth(*, wrong_rows, groups, sizes, roadwork, failed_groups, method):
    draw_wrong, mean_wrong = WRONG_ROWS[wrong_rows]
    failing = failed_groups / groups
    error_rate = failing * mean_wrong(sizes) / np.mean(sizes)
    truth = np.outer([1 - roadwork, roadwork], [1 - error_rate, error_rate])
    truth = np.array([truth[0, 0], truth[0, 1], truth[1, 1], truth[1, 0]])
    rng = np.random.default_rng(0)
    repeats = 500
    covered, methods = {"accuracy": 0, "mcc": 0}, []
    for repeat in range(repeats):
        counts = simulate(rng, groups=groups, sizes=sizes, roadwork=roadwork, failing=failing, wrong_rows=draw_wrong)
        used, intervals = iv.count_intervals(counts, draws=300, seed=repeat)
        methods.append(used)
        for name, metric in (("accuracy", accuracy), ("mcc", mcc)):
            low, high = intervals[name]
            covered[name] += low - 1e-9 <= metric(truth) <= high + 1e-9
    if method:
        assert methods.count(method) > 0.95 * repeats
    else:
        assert min(methods.count(iv.BOOTSTRAP), methods.count(iv.CLOPPER_PEARSON)) > 0.05 * repeats
    # 93 %, less two standard errors of a simulation this short; 3,000 repeats of each gave 93.5 % or more.
    assert min(covered.values()) / repeats >= 0.93 - 0.022, covered


def test_bootstrap_undercovers_with_few_failed_groups():
    rng = np.random.default_rng(0)
    truth = mcc(np.array([0.4875, 0.0125, 0.0125, 0.4875]))
    covered = 0
    for repeat in range(300):
        counts = simulate(rng, groups=120, sizes=[4], roadwork=0.5, failing=0.025, wrong_rows=lambda _rng, size: size)
        low, high = iv.percentile_interval(mcc(iv.draw_counts(counts, draws=300, seed=repeat)))
        covered += low <= truth <= high
    assert covered / 300 < 0.9


def test_bootstrap_of_single_rows_agrees_with_scipy():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    probabilities = np.where(rng.random(400) < 0.9, labels, 1 - labels).astype(float)
    counts = iv.count_by_group(labels, probabilities, np.arange(400))
    method, ours = iv.count_intervals(counts, draws=20_000, seed=0)
    assert method == iv.BOOTSTRAP

    def scipy_mcc(truth, decided, axis):
        # The correlation of two 0/1 variables is their MCC.
        truth, decided = truth - truth.mean(axis, keepdims=True), decided - decided.mean(axis, keepdims=True)
        return (truth * decided).sum(axis) / np.sqrt((truth**2).sum(axis) * (decided**2).sum(axis))

    options = {"paired": True, "vectorized": True, "n_resamples": 5000, "batch": 500, "method": "percentile", "rng": 0}
    theirs = stats.bootstrap((labels, probabilities), scipy_mcc, **options).confidence_interval
    assert ours["mcc"] == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_drawing_kinds_of_groups_equals_drawing_groups():
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 4, (30, 4))
    drawn = iv.draw_counts(counts, draws=20_000, seed=0)
    one_by_one = counts[rng.integers(30, size=(20_000, 30))].sum(axis=1)
    np.testing.assert_allclose(drawn.mean(axis=0), one_by_one.mean(axis=0), rtol=0.01)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(one_by_one.T), rtol=0.06, atol=2)


def test_rows_that_fail_together_widen_the_interval():
    rng = np.random.default_rng(3)
    labels = np.repeat(rng.integers(0, 2, 200), 10)
    wrong = np.repeat(rng.random(200) < 0.15, 10)
    probabilities = np.where(wrong, 1 - labels, labels).astype(float)
    widths = {}
    for name, groups in (("sequence", np.repeat(np.arange(200), 10)), ("row", np.arange(2000))):
        counts = iv.count_by_group(labels, probabilities, groups)
        _, intervals = iv.count_intervals(counts, draws=2000, seed=0)
        widths[name] = np.diff(intervals["mcc"])[0]
    assert widths["sequence"] / widths["row"] == pytest.approx(np.sqrt(10), rel=0.15)


@pytest.mark.parametrize("failed", [0, 1, 4])
def test_groups_failing_together_get_the_binomial_interval(failed):
    counts = np.tile([5, 0, 0, 0], (60, 1))
    counts[30:] = [0, 0, 0, 5]
    counts[:failed] = [0, 5, 0, 0]
    method, intervals = iv.count_intervals(counts, draws=10, seed=0)
    exact = stats.binomtest(60 - failed, 60).proportion_ci(confidence_level=0.95, method="exact")
    assert method == iv.CLOPPER_PEARSON
    assert intervals["accuracy"] == pytest.approx((exact.low, exact.high))


def test_zero_errors_still_give_an_interval():
    counts = np.array([[4, 0, 0, 0], [0, 0, 0, 4]] * 25)
    _, intervals = iv.count_intervals(counts, draws=10, seed=0)
    assert all(low < 0.95 and high == pytest.approx(1.0) for low, high in intervals.values())


def test_the_mcc_bound_is_the_worst_split_of_the_errors():
    nones, roadworks, errors = 700, 300, 60
    brute = [mcc(np.array([nones - fp, fp, errors - fp, roadworks - errors + fp])) for fp in range(errors + 1)]
    share, rate = roadworks / 1000, errors / 1000
    assert iv.metric_bound(mcc, rate, share, np.min) == pytest.approx(min(brute), abs=1e-4)
    assert iv.metric_bound(mcc, rate, share, np.max) == pytest.approx(max(brute), abs=1e-4)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_groups_to_show_is_where_the_bound_meets_the_target(share):
    needed = int(np.ceil(iv.groups_to_show(0.97, share) / 10) * 10)
    lows = []
    for groups in (needed - 10, needed):
        roadworks = int(groups * share)
        counts = np.array([[1, 0, 0, 0]] * (groups - roadworks) + [[0, 0, 0, 1]] * roadworks)
        lows.append(iv.count_intervals(counts, draws=1, seed=0)[1]["mcc"][0])
    assert lows[0] < 0.97 <= lows[1]
    assert iv.groups_to_show(1.0, share) == np.inf


def test_ranking_intervals_agree_with_scipy():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 250)
    probabilities = np.clip(0.3 * labels + 0.7 * rng.random(250), 0, 1)

    def scipy_scores(truth, scores):
        return Ranking(truth, scores).score(np.ones(len(truth)))[0]

    options = {"paired": True, "vectorized": False, "n_resamples": 3000, "method": "percentile", "rng": 0}
    theirs = stats.bootstrap((labels, probabilities), scipy_scores, **options).confidence_interval
    ours = iv.ranking_intervals(labels, probabilities, np.arange(250), draws=3000, seed=0)
    assert ours["auroc"] == pytest.approx((theirs.low, theirs.high), abs=0.005)


def test_the_seed_decides_the_draws():
    counts = np.random.default_rng(5).integers(0, 5, (50, 4))
    first, again, other = (iv.draw_counts(counts, draws=5, seed=seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_a_hundred_thousand_rows_take_under_two_seconds():
    rng = np.random.default_rng(6)
    labels = rng.integers(0, 2, 100_000)
    probabilities = np.where(rng.random(100_000) < 0.95, labels, 1 - labels).astype(float)
    counts = iv.count_by_group(labels, probabilities, rng.integers(0, 25_000, 100_000))
    started = time.process_time()
    iv.count_intervals(counts, draws=2000, seed=0)
    assert time.process_time() - started < 2


def test_false_alarms_and_balanced_accuracy_have_exact_intervals():
    """One false alarm and one miss in 40 groups: both bounds enclose the value, and worse errors raise false alarms."""
    counts = np.array([[1, 0, 0, 0]] * 19 + [[0, 0, 0, 1]] * 19 + [[0, 1, 0, 0], [0, 0, 1, 0]])
    method, intervals = iv.count_intervals(counts, draws=100, seed=0, metrics=CLASS_METRICS)
    assert method == iv.CLOPPER_PEARSON
    low, high = intervals["false_alarm_rate"]
    assert low == 0
    assert 1 / 20 < high < 1
    low, high = intervals["balanced_accuracy"]
    assert 0.5 < low < 0.95 < high <= 1
    ordinary = iv.count_intervals(counts, draws=100, seed=0)[1]
    assert ordinary == {name: intervals[name] for name in ordinary}


def few_groups(rng, *, groups=9, distance=1.0, spread=1.0):
    """Labels, probabilities and groups of about 40 rows; each group shifts the scores of both classes."""
    codes = np.repeat(np.arange(groups), rng.integers(20, 61, groups))
    labels = (rng.random(len(codes)) < rng.beta(5, 5, groups)[codes]).astype(int)
    shifts = rng.normal(0, spread, (2, groups))
    scores = distance * (labels - 0.5) + shifts[labels, codes] + rng.normal(size=len(codes))
    return labels, special.expit(scores), codes


def test_jackknife_covers_the_truth_with_nine_groups():
    """The hardest of the settings in docs/EXPERIMENTS.md."""
    recall = stats.norm.cdf(0.5 / np.sqrt(2))
    truth = {
        name: float(metric(np.array([recall, 1 - recall, 1 - recall, recall])))
        for name, metric in CLASS_METRICS.items()
    }
    truth["auroc"] = stats.norm.cdf(1 / np.sqrt(2 * 2))
    rng, repeats = np.random.default_rng(0), 200
    covered, widths = dict.fromkeys(truth, 0), []
    for _ in range(repeats):
        labels, probabilities, groups = few_groups(rng)
        found = iv.jackknife_intervals(labels, probabilities, groups, 0.5, CLASS_METRICS)
        for name, value in truth.items():
            low, high = found.get(name, (-1, 1))
            covered[name] += low <= value <= high
        widths.append(np.ptp(found.get("mcc", (-1, 1))))
    # 93 %, less two standard errors of a simulation this short.
    assert min(covered.values()) / repeats >= 0.93 - 0.036, covered
    counts = iv.count_by_group(labels, probabilities, groups)
    assert np.mean(widths) < 0.6 * np.ptp(iv.count_intervals(counts, draws=100, seed=0)[1]["mcc"])


def test_jackknife_of_equal_groups_is_the_t_interval():
    rng = np.random.default_rng(1)
    labels, groups = np.tile([0, 1], 5000), np.repeat(np.arange(20), 500)
    right = rng.random(10_000) < rng.normal(0.7, 0.02, 20)[groups]
    found = iv.jackknife_intervals(labels, np.where(right, labels, 1 - labels), groups, 0.5, CLASS_METRICS)
    shares = right.reshape(20, 500).mean(axis=1)
    expected = stats.t.interval(0.95, 19, shares.mean(), stats.sem(shares))
    assert found["accuracy"] == pytest.approx(expected, abs=5e-4)


def test_jackknife_needs_errors_in_two_groups():
    labels, groups = np.tile([0, 0, 1, 1], 9), np.repeat(np.arange(9), 4)
    probabilities = labels * 0.8 + 0.1
    probabilities[[0, 4, 8]] = 0.9  # false alarms in three groups, and no miss
    assert set(iv.jackknife_intervals(labels, probabilities, groups, 0.5, CLASS_METRICS)) == {"false_alarm_rate"}
    frame = pd.DataFrame({"label": labels, "probability": probabilities, "group": groups})
    result = score_classes(frame, draws=10, seed=0, threshold=0.5)
    exact = iv.count_intervals(iv.count_by_group(labels, probabilities, groups), draws=10, seed=0)[1]
    assert result["method"] == f"{iv.JACKKNIFE}, else {iv.CLOPPER_PEARSON}"
    assert (result["mcc_low"], result["mcc_high"]) == exact["mcc"]
