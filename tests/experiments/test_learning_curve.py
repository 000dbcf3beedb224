"""Learning curves with planted parameters, and the ceiling of wrong labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit

from roadwork.core.errors import DataError, SplitError
from roadwork.experiments.learning_curve import (
    Curves,
    draw_errors,
    fit_curves,
    label_ceiling,
    label_errors_allowed,
    predict_curve,
)
from roadwork.experiments.size_plan import draw_groups
from roadwork.experiments.size_report import analyse_sizes, draw_sizes, read_label_error
from roadwork.metrics.classification import mcc
from roadwork.metrics.predictions import write_predictions

SIZES = np.array([100.0, 200, 400, 800, 1600, 3200])
GROUPS, PER_GROUP, SEEDS = 150, 4, 3


def simulate(rng, sizes, a, b, c):
    """(G, K, S, 4) counts of detectors whose 1 - MCC is a + b n^-c on average; groups and seeds differ."""
    labels = rng.integers(2, size=(GROUPS, PER_GROUP))
    hardness = rng.gamma(2, 0.5, size=(GROUPS, 1))
    counts = np.zeros((GROUPS, len(sizes), SEEDS, 4), dtype=int)
    for size, n in enumerate(sizes):
        for seed in range(SEEDS):
            rate = (a + b * n**-c) / 2 * rng.gamma(40, 1 / 40)  # with equal classes, 1 - MCC is twice the error rate
            wrong = rng.random(labels.shape) < np.minimum(rate * hardness, 1)
            cells = 2 * labels + (labels ^ wrong)
            counts[:, size, seed] = (cells[..., None] == np.arange(4)).sum(axis=1)
    return counts


@pytest.mark.parametrize(("a", "b", "c"), [(0.0, 8.0, 0.7), (0.05, 8.0, 0.7), (0.0, 3.0, 0.5)])
def test_the_interval_covers_a_held_back_size(a, b, c):
    measured_inside = true_inside = needed_inside = 0
    truth = Curves(np.array([a]), np.array([b]), np.array([c]), 1.0)
    for world in range(60):
        counts = simulate(np.random.default_rng(world), SIZES, a, b, c)
        errors, drawn = 1 - mcc(counts.sum(axis=0)), draw_errors(counts, draws=200, seed=world)
        rest = np.broadcast_to(errors[:-1], (200, *errors[:-1].shape))
        held_back = predict_curve(SIZES[:-1], errors[:-1], rest, seed=world, least=1 / 600)
        low, high = held_back.measured_at(SIZES[-1], SEEDS)[1]
        measured_inside += low <= errors[-1].mean() <= high
        curve = predict_curve(SIZES, errors, drawn, seed=world, least=1 / 600)
        low, high = curve.error_at(4 * SIZES[-1])[1]
        true_inside += low <= truth.at(4 * SIZES[-1])[0] <= high
        low, high = curve.photos_for(0.04)[1]
        needed_inside += low <= truth.photos_for(0.04)[0] <= high
    assert min(measured_inside, true_inside, needed_inside) >= 0.85 * 60


def test_the_interval_shrinks_with_the_noise():
    widths = []
    for seeds_noise in (0.02, 0.2):
        errors = (8 * SIZES**-0.7)[:, None] * (1 + seeds_noise * np.array([-1.0, 0.0, 1.0]))
        drawn = np.broadcast_to(errors, (500, *errors.shape))
        low, high = predict_curve(SIZES, errors, drawn, seed=0, least=0.001).error_at(10_000)[1]
        widths.append(high - low)
    assert widths[0] < widths[1] / 5


@pytest.mark.parametrize(("a", "b", "c"), [(0.02, 8.0, 0.7), (0.0, 3.0, 0.5), (0.1, 40.0, 1.0)])
def test_exact_errors_give_back_the_parameters(a, b, c):
    errors = a + b * SIZES**-c
    fitted = fit_curves(SIZES, errors[None], errors)
    assert [fitted.a[0], (fitted.b * SIZES[-1] ** fitted.c)[0], fitted.c[0]] == pytest.approx([a, b, c], abs=1e-6)
    assert fitted.at(SIZES)[0] == pytest.approx(errors)


def test_the_fit_agrees_with_scipy():
    rng = np.random.default_rng(0)
    errors = 0.03 + 8 * SIZES**-0.7 * (1 + 0.05 * rng.standard_normal(6))
    sigma = np.sqrt(errors)
    bounds = (0, [1, 100, 2])
    expected, _ = curve_fit(lambda n, a, b, c: a + b * n**-c, SIZES, errors, [0.01, 5, 0.6], sigma, bounds=bounds)
    fitted = fit_curves(SIZES, errors[None], errors)
    assert fitted.at(10_000.0)[0] == pytest.approx(expected[0] + expected[1] * 10_000 ** -expected[2], rel=0.01)
    assert fitted.c[0] == pytest.approx(expected[2], abs=0.01)


def test_asymptote_and_slope_are_never_negative():
    rising = fit_curves(SIZES, (0.1 + SIZES / 1e4)[None], np.ones(6))
    assert rising.b[0] == 0
    assert rising.a[0] == pytest.approx((0.1 + SIZES / 1e4).mean())
    assert rising.photos_for(0.01)[0] == np.inf
    concave = fit_curves(SIZES, (0.4 - 0.04 * np.log(SIZES))[None], np.ones(6))
    assert concave.a[0] == 0


def test_the_number_of_photos_inverts_the_curve():
    curves = Curves(np.array([0.0, 0.005, 0.02]), np.array([0.05] * 3), np.array([0.7] * 3), 3200.0)
    photos = curves.photos_for(0.01)
    assert curves.at(photos[0])[0] == pytest.approx(0.01)
    assert curves.at(photos[1])[1] == pytest.approx(0.01)
    assert photos[0] < photos[1]
    assert photos[2] == np.inf


@pytest.mark.parametrize("share", [0.5, 0.3, 0.1])
def test_a_perfect_detector_measures_the_ceiling(share):
    rng = np.random.default_rng(0)
    truth = rng.random(400_000) < share
    labels = truth ^ (rng.random(len(truth)) < 0.03)
    decisions = truth ^ (rng.random(len(truth)) < 0.1)
    ceiling = label_ceiling(0.03, labels.mean())
    assert np.corrcoef(truth, labels)[0, 1] == pytest.approx(ceiling, abs=0.003)
    # Any detector loses the same factor, so dividing by the ceiling gives the MCC on corrected labels.
    measured, true = (np.corrcoef(decisions, other)[0, 1] for other in (labels, truth))
    assert measured / ceiling == pytest.approx(true, abs=0.005)


def test_label_errors_allowed_inverts_the_ceiling():
    assert label_ceiling(0.01, 0.5) == pytest.approx(0.98)
    assert label_errors_allowed(0.98, 0.5) == pytest.approx(0.01)
    assert label_ceiling(label_errors_allowed(0.99, 0.2), 0.2) == pytest.approx(0.99)
    assert np.isnan(label_ceiling(0.2, 0.1))


@pytest.fixture
def rows():
    """Labels and groups of 400 rows; every fifth group has Roadwork only, the others little."""
    rng = np.random.default_rng(0)
    groups = rng.integers(80, size=400)
    return np.where(groups % 5 == 0, 1, rng.random(400) < 0.1).astype(int), groups


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_drawn_groups_are_whole_and_nested(rows, seed):
    labels, groups = rows
    before = np.zeros(400, dtype=bool)
    for n_rows in (1, 25, 50, 100, 200, 400):
        drawn = draw_groups(labels, groups, n_rows, seed)
        assert not set(groups[drawn]) & set(groups[~drawn])
        assert (drawn | ~before).all()
        assert set(labels[drawn]) == {0, 1}
        if n_rows >= 50:
            assert drawn.sum() == pytest.approx(n_rows, abs=8)
            assert labels[drawn].mean() == pytest.approx(labels.mean(), abs=0.08)
        before = drawn
    assert before.all()


def test_rows_of_one_label_cannot_be_drawn():
    with pytest.raises(SplitError, match="one label"):
        draw_groups(np.ones(10, dtype=int), np.arange(10), 5, 0)


def frames_of(error_rates, n=2000):
    """Predictions of three seeds for each size, with exact error rates in both classes."""
    labels = np.tile([0, 1], n // 2)
    frames = []
    for rate in error_rates:
        wrong = np.arange(n) < round(rate * n / 2) * 2
        own = pd.DataFrame({"id": np.arange(n).astype(str), "label": labels, "group": np.arange(n) // 4})
        frames.append([own.assign(probability=(labels ^ np.roll(wrong, 500 * s)).astype(float)) for s in range(3)])
    return frames


def analyse(error_rates, wrong=None):
    return analyse_sizes(SIZES, frames_of(error_rates), target=0.99, wrong=wrong, draws=200, seed=0)


def test_the_report_finds_how_many_photos_the_target_takes():
    report = analyse(4 * SIZES**-0.7)
    assert report["check"]["seeds_inside"] == 3
    expected = (0.01 / 8) ** (-1 / 0.7)
    needed = report["curve"]["needed"]
    assert needed["photos"] == pytest.approx(expected, rel=0.15)
    assert needed["low"] <= expected
    assert needed["high"] is None or needed["high"] >= expected
    assert report["check"]["inside"]
    assert report["sizes"][0]["mcc"] == pytest.approx(1 - 8 * 100**-0.7, abs=0.002)
    assert report["labels"] is None


def test_an_asymptote_below_the_target_is_not_reachable():
    report = analyse(0.05 + 4 * SIZES**-0.7, wrong=0.05)
    assert report["curve"]["needed"]["photos"] is None
    assert report["curve"]["asymptote"]["mcc"] == pytest.approx(0.9, abs=0.01)
    # The ceiling of 5 % wrong labels is 0.9, so on correct labels the curve ends at 1.
    labels = report["labels"]
    assert labels["ceiling"] == pytest.approx(0.9)
    assert labels["corrected"] == pytest.approx(report["sizes"][-1]["mcc"] / 0.9)
    assert labels["allowed"] == pytest.approx(0.005)
    assert report["curve"]["needed_with_correct_labels"]["photos"] > SIZES[-1]


def test_sizes_near_chance_are_not_fitted():
    report = analyse([0.5, 0.49, 0.2, 0.1, 0.05, 0.025])
    assert [size["fitted"] for size in report["sizes"]] == [False, False, True, True, True, True]
    assert report["curve"] is None


def test_errorless_sizes_need_no_more_photos(tmp_path):
    report = analyse([0.0] * 6)
    assert report["curve"]["needed"]["photos"] < SIZES[0]
    assert report["check"]["inside"]
    draw_sizes(report, tmp_path / "size.svg")


def test_a_break_in_the_curve_fails_the_check():
    assert not analyse([*(4 * SIZES[:-1] ** -0.7), 0.1])["check"]["inside"]


def test_different_held_out_rows_are_refused():
    frames = frames_of(4 * SIZES**-0.7)
    frames[2][1] = frames[2][1].iloc[1:].reset_index(drop=True)
    with pytest.raises(DataError, match="different rows"):
        analyse_sizes(SIZES, frames, target=0.99, wrong=None, draws=10, seed=0)


def test_the_share_of_wrong_labels_comes_from_an_audit(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=1000)
    logit = np.where(truth == 1, 1, -1) * rng.uniform(1, 4, 1000)
    wrong = np.arange(1000) < 40
    own = {"label": truth ^ wrong, "logit_none": 0.0, "logit_roadwork": logit, "probability": 1 / (1 + np.exp(-logit))}
    ids = np.arange(1000).astype(str)
    places = dict.fromkeys(("latitude", "longitude", "distance_km"), np.nan)
    frame = pd.DataFrame({"id": ids, "filename": ids, "split": "fold_0", "group": ids, **own, **places})
    write_predictions(frame, tmp_path / "oof_predictions.parquet")
    assert read_label_error(str(tmp_path), 0.99) == pytest.approx(0.04, abs=0.005)
    assert read_label_error("0.04", 0.99) == 0.04
    assert read_label_error(None, 0.99) is None
