"""Weights, placebo and draws of the conditions."""

from __future__ import annotations

import numpy as np
import pytest

from roadwork.experiments.gps_conditions import (
    CONDITIONS,
    GPS,
    LAST_LAYER,
    PLACEBO,
    UNIFORM,
    TrainingRows,
    describe_weights,
    draw_rows,
    shuffle_positions,
    weigh_conditions,
)
from roadwork.settings import GpsSamplingSettings

BERLIN, POTSDAM, PARIS, NEW_YORK = (52.52, 13.40), (52.40, 13.06), (48.86, 2.35), (40.71, -74.01)
CENTERS = np.array([BERLIN])


def make_rows(seed: int = 0, size: int | None = None) -> TrainingRows:
    """40 groups of `size` rows (of 1 to 6 where None) in four cities; one group in ten has no GPS."""
    rng = np.random.default_rng(seed)
    sizes = np.full(40, size) if size else rng.integers(1, 7, size=40)
    places = np.array([BERLIN, POTSDAM, PARIS, NEW_YORK])[rng.integers(4, size=40)]
    places[::10] = np.nan
    codes = rng.permutation(np.repeat(np.arange(40), sizes))
    labels = rng.integers(2, size=len(codes))
    return TrainingRows(places[codes], labels, np.array([f"g{code}" for code in codes]))


def weigh(rows: TrainingRows, **sampling: object) -> dict[str, np.ndarray]:
    return weigh_conditions(rows, CENTERS, GpsSamplingSettings(**sampling), np.random.default_rng(0))


def test_weights_follow_the_brackets():
    rows = make_rows()
    expected = {52.52: 5.0, 52.40: 5.0, 48.86: 0.3, 40.71: 0.3}
    by_hand = np.array([expected.get(latitude, 1.0) for latitude in rows.gps[:, 0]])
    weights = weigh(rows)
    assert set(weights) == set(CONDITIONS)
    np.testing.assert_allclose(weights[GPS], by_hand)
    np.testing.assert_allclose(weights[LAST_LAYER], by_hand)
    np.testing.assert_allclose(weights["gps_half_dose"], np.sqrt(by_hand))
    assert (weights[UNIFORM] == 1).all()


def test_class_balanced_draws_both_labels_equally():
    rows = make_rows()
    rows.labels[:] = np.arange(len(rows)) % 5 == 0
    weights = weigh(rows)["class_balanced"]
    assert weights[rows.labels == 1].sum() == pytest.approx(weights[rows.labels == 0].sum())
    assert weights.sum() == pytest.approx(len(rows))


@pytest.mark.parametrize("seed", range(5))
def test_placebo_has_exactly_the_same_weights(seed):
    rows = make_rows(seed)
    weights = weigh_conditions(rows, CENTERS, GpsSamplingSettings(), np.random.default_rng(seed))
    assert sorted(weights[PLACEBO]) == sorted(weights[GPS])
    assert (weights[PLACEBO] != weights[GPS]).any()


def test_placebo_keeps_groups_of_equal_size_whole():
    rows = make_rows(size=4)
    shuffled = shuffle_positions(rows, np.random.default_rng(1))
    for group in np.unique(rows.groups):
        assert len(np.unique(np.nan_to_num(shuffled.gps[rows.groups == group]), axis=0)) == 1
    assert (shuffled.gps[:, 0] != rows.gps[:, 0]).mean() > 0.4


def test_placebo_splits_few_groups_of_unequal_size():
    rows = make_rows()
    shuffled = shuffle_positions(rows, np.random.default_rng(1))
    order = np.argsort(rows.groups, kind="stable")
    changes = (rows.groups[order][1:] == rows.groups[order][:-1]) & (
        np.nan_to_num(shuffled.gps[order, 0])[1:] != np.nan_to_num(shuffled.gps[order, 0])[:-1]
    )
    assert changes.sum() < 40  # each border between two givers falls into one taker at most


def test_placebo_is_unrelated_to_position_on_average():
    rows = make_rows()
    near = np.abs(rows.gps[:, 0] - 52.5) < 1
    shuffles = [shuffle_positions(rows, np.random.default_rng(seed)).gps[:, 0] for seed in range(300)]
    correlations = [np.corrcoef(np.abs(latitude - 52.5) < 1, near)[0, 1] for latitude in shuffles]
    assert abs(np.mean(correlations)) < 0.05


def test_balanced_labels_shift_no_prior():
    rows = make_rows(size=6)
    weights = weigh(rows, balance_labels=True)
    for name in (GPS, PLACEBO, "gps_half_dose"):
        facts = describe_weights(weights[name], rows)
        assert facts["roadwork_share_drawn"] == pytest.approx(facts["roadwork_share"])
    assert len(np.unique(weights[GPS])) > len(np.unique(weigh(rows)[GPS]))


def test_draws_follow_the_weights():
    weights = np.array([4.0, 1.0, 1.0, 1.0, 0.5, 0.5])
    drawn = draw_rows(weights, 6 * 1000, [0, 0, 0])
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 1000, weights * 6 / 8, atol=0.05)
    assert drawn.dtype == np.int64


def test_equal_weights_draw_each_row_once_an_epoch():
    drawn = draw_rows(np.ones(10), 25, [3, 1])
    assert sorted(drawn[:10]) == sorted(drawn[10:20]) == list(range(10))
    assert len(drawn) == 25
    assert list(drawn) == list(draw_rows(np.ones(10), 25, [3, 1]))
    assert list(drawn) != list(draw_rows(np.ones(10), 25, [4, 1]))


def test_facts_against_their_formulas():
    rows = make_rows()
    weights = np.random.default_rng(1).random(len(rows))
    facts = describe_weights(weights, rows)
    sums = np.array([weights[rows.groups == group].sum() for group in np.unique(rows.groups)])
    assert facts["effective_rows"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert facts["effective_groups"] == pytest.approx(sums.sum() ** 2 / (sums**2).sum())
    assert facts["weight_label_correlation"] == pytest.approx(np.corrcoef(weights, rows.labels)[0, 1])
    assert facts["roadwork_share_drawn"] == pytest.approx(np.average(rows.labels, weights=weights))
    assert describe_weights(np.ones(len(rows)), rows)["weight_label_correlation"] == 0
