import math

import numpy as np
import pytest
from sklearn import metrics as sk

from roadwork.metrics import classification as metrics


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 6], ids=["many ties", "no ties"])
def test_every_metric_equals_scikit_learn(seed, decimals):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 300)
    probabilities = np.round(np.clip(0.35 * labels + rng.random(300) * 0.65, 0, 1), decimals)
    decisions = (probabilities >= 0.4).astype(int)
    expected = {
        "mcc": sk.matthews_corrcoef(labels, decisions),
        "accuracy": sk.accuracy_score(labels, decisions),
        "precision": sk.precision_score(labels, decisions),
        "recall": sk.recall_score(labels, decisions),
        "f1": sk.f1_score(labels, decisions),
        "auroc": sk.roc_auc_score(labels, probabilities),
        "auprc": sk.average_precision_score(labels, probabilities),
    }
    assert metrics.score_all(labels, probabilities, threshold=0.4) == pytest.approx(expected, abs=1e-12)
    counts = metrics.count_confusion(labels, probabilities, threshold=0.4)
    assert counts.tolist() == sk.confusion_matrix(labels, decisions).ravel().tolist()


def test_weighted_ranking_equals_scikit_learn():
    rng = np.random.default_rng(3)
    labels, probabilities = rng.integers(0, 2, 200), np.round(rng.random(200), 1)
    weights = rng.integers(0, 4, 200)
    auroc, auprc = metrics.Ranking(labels, probabilities).score(weights)
    assert auroc == pytest.approx(sk.roc_auc_score(labels, probabilities, sample_weight=weights))
    assert auprc == pytest.approx(sk.average_precision_score(labels, probabilities, sample_weight=weights))


def test_rows_of_weight_zero_at_the_top_do_not_count():
    labels, probabilities = np.array([1, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    assert metrics.Ranking(labels, probabilities).score(np.array([0, 1, 1, 1])) == (1.0, 1.0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_leaves_rankings_undefined_and_mcc_zero(label):
    figures = metrics.score_all(np.full(4, label), np.array([0.1, 0.4, 0.6, 0.9]))
    assert figures["mcc"] == 0.0
    assert math.isnan(figures["auroc"])
    assert math.isnan(figures["auprc"])


def test_constant_decisions_have_mcc_zero_and_no_precision():
    figures = metrics.score_all(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]))
    assert figures["mcc"] == 0.0
    assert math.isnan(figures["precision"])
    assert figures["recall"] == 0.0


def test_a_probability_at_the_threshold_is_roadwork():
    assert metrics.decide(np.array([0.5, np.nextafter(0.5, 0)])).tolist() == [1, 0]


def test_mcc_of_counts_whose_product_exceeds_int64():
    counts = np.array([3_000_000, 1_000_000, 1_000_000, 3_000_000])
    assert metrics.mcc(counts) == pytest.approx(0.5)
