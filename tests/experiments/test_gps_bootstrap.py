"""Weighted MCCs and paired intervals against scikit-learn and a slow bootstrap row by row."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import matthews_corrcoef

from roadwork.experiments.gps_analysis import MIN_ROWS_A_LABEL, judge_cells, mcc_by_cell
from roadwork.metrics.classification import mcc
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, weigh_counts


def make_world(seed: int = 0, n_seeds: int = 3, n_groups: int = 30):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 6, size=n_groups))
    labels = rng.integers(2, size=len(groups))
    hard = rng.random(n_groups)[groups]
    probabilities = np.clip(
        np.where(labels == 1, 0.8, 0.2) + 0.6 * hard * rng.normal(size=(n_seeds, 2, len(groups))), 0, 1
    )
    return labels, probabilities, groups, rng.integers(3, size=len(groups))


def test_weighted_mcc_is_scikit_learns():
    labels, probabilities, groups, strata = make_world()
    weights = np.array([[5.0, 2.5, 0.3], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    counts = count_paired(labels, probabilities, groups, strata, 3)
    values = mcc(weigh_counts(counts.sum(axis=0), weights))
    for k, row_weights in enumerate(weights):
        for s in range(3):
            for a in range(2):
                expected = matthews_corrcoef(labels, probabilities[s, a] >= 0.5, sample_weight=row_weights[strata])
                np.testing.assert_allclose(values[k, s, a], expected, atol=1e-12)


def test_bootstrap_agrees_with_a_slow_one():
    labels, probabilities, groups, strata = make_world()
    weights = np.array([[5.0, 2.5, 0.3]])
    fast = bootstrap_mcc(count_paired(labels, probabilities, groups, strata, 3), weights, draws=4000, seed=0)[:, 0]
    rng = np.random.default_rng(1)
    rows_of = [np.flatnonzero(groups == group) for group in range(30)]
    slow = np.empty((1000, 2))
    for draw in range(1000):
        rows = np.concatenate([rows_of[group] for group in rng.integers(30, size=30)])
        seeds = rng.integers(3, size=3)
        for a in range(2):
            # The MCC is the (weighted) Pearson correlation of labels and decisions.
            decisions = [probabilities[s, a, rows] >= 0.5 for s in seeds]
            covariances = [np.cov(labels[rows], d, aweights=weights[0, strata[rows]]) for d in decisions]
            slow[draw, a] = np.mean([c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in covariances])
    difference, expected = fast[:, 0] - fast[:, 1], slow[:, 0] - slow[:, 1]
    for statistic in (np.mean, np.std, lambda v: np.percentile(v, 2.5), lambda v: np.percentile(v, 97.5)):
        np.testing.assert_allclose(statistic(difference), statistic(expected), atol=0.02)
        np.testing.assert_allclose(statistic(fast[:, 0]), statistic(slow[:, 0]), atol=0.03)


def test_the_same_model_twice_never_differs():
    labels, probabilities, groups, strata = make_world()
    probabilities[:, 1] = probabilities[:, 0]
    drawn = bootstrap_mcc(count_paired(labels, probabilities, groups, strata, 3), np.ones((1, 3)), draws=200, seed=0)
    assert (drawn[:, 0, 0] == drawn[:, 0, 1]).all()
    assert drawn[:, 0, 0].std() > 0


def test_draws_in_chunks_are_as_many(monkeypatch):
    labels, probabilities, groups, strata = make_world()
    monkeypatch.setattr("roadwork.metrics.intervals._CHUNK", 100)
    drawn = bootstrap_mcc(count_paired(labels, probabilities, groups, strata, 3), np.ones((2, 3)), draws=50, seed=0)
    assert drawn.shape == (50, 2, 2)


def make_cells(n_near: int):
    """Berlin with 40 rows of each label, Tokyo with `n_near` of label 1, and five rows without GPS."""
    gps = np.array([(52.52, 13.40)] * 80 + [(35.68, 139.65)] * (40 + n_near) + [(np.nan, np.nan)] * 5)
    labels = np.array([0, 1] * 40 + [0] * 40 + [1] * n_near + [0] * 5)
    return labels, gps


def test_cells_with_few_rows_of_a_label_are_not_judged():
    labels, gps = make_cells(MIN_ROWS_A_LABEL)
    assert len(judge_cells(labels, gps).names) == 2
    labels, gps = make_cells(MIN_ROWS_A_LABEL - 1)
    cells = judge_cells(labels, gps)
    assert len(cells.names) == 1
    np.testing.assert_allclose(cells.centers_deg, [(52.52, 13.40)], atol=4)


def test_mcc_by_cell_is_that_of_its_rows():
    labels, gps = make_cells(20)
    probabilities = np.random.default_rng(0).random((2, 3, len(labels)))
    cells = judge_cells(labels, gps)
    values = mcc_by_cell(cells, labels, probabilities)
    for c, (latitude, _) in enumerate(cells.centers_deg):
        rows = np.abs(gps[:, 0] - latitude) < 5
        expected = [[matthews_corrcoef(labels[rows], p[rows] >= 0.5) for p in models] for models in probabilities]
        np.testing.assert_allclose(values[c], np.mean(expected, axis=0))


def test_no_cell_where_no_row_has_gps():
    cells = judge_cells(np.array([0, 1] * 30), np.full((60, 2), np.nan))
    assert len(cells.names) == 0
    assert mcc_by_cell(cells, np.array([0, 1] * 30), np.zeros((1, 2, 60))).shape == (0, 2)
