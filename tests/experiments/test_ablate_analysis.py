"""The analysis of an ablation, on simulated predictions and against other implementations."""

from __future__ import annotations

import json
import warnings
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats
from sklearn.metrics import matthews_corrcoef

from roadwork.core.errors import DataError, WiringError
from roadwork.experiments.ablation_report import (
    BETTER,
    NOT_SIGNIFICANT,
    WORSE,
    analyse,
    bootstrap_p,
    draw_ablation,
    format_report,
    holm,
    judge,
    student_p,
)

CONDITIONS = ("plain", "same", "good", "bad")
FACTS = {"steps": 50, "trainable": 10, "seconds": 2.0, "images_per_second": 9.0, "checkpoint_mb": 1.0}


def simulate(seed, rates, n_fits=5, n_groups=100):
    """Frames of each fit and condition: wrong decisions at these rates, more of them in hard groups."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 2, n_groups * n_fits), 4)
    groups = np.repeat(np.arange(n_groups * n_fits), 4)
    hard = np.repeat(rng.gamma(2, 0.5, n_groups * n_fits), 4)
    frames = []
    for fit in range(n_fits):
        rows = np.flatnonzero(groups % n_fits == fit)
        of_fit = []
        for rate in rates:
            wrong = rng.random(len(rows)) < rate * hard[rows]
            decided = np.where(wrong, 1 - labels[rows], labels[rows])
            probability = 0.5 * decided + 0.5 * rng.random(len(rows))
            of_fit.append(pd.DataFrame({"id": rows.astype(str), "label": labels[rows], "group": groups[rows]}))
            of_fit[-1]["probability"] = probability
        frames.append(of_fit)
    return frames


def analyse_all(frames, conditions=CONDITIONS, draws=400):
    return analyse(conditions, frames, [[FACTS] * len(conditions)] * len(frames), draws=draws, seed=0)


@pytest.fixture(scope="module")
def planted():
    return simulate(1, (0.15, 0.15, 0.05, 0.3))


@pytest.fixture(scope="module")
def report(planted):
    return analyse_all(planted)


def test_a_planted_effect_is_found_and_no_other(report):
    verdicts = {name: report["arms"][name]["verdict"] for name in CONDITIONS[1:]}
    assert verdicts["good"] == BETTER
    assert verdicts["bad"] == WORSE
    assert verdicts["same"].startswith(NOT_SIGNIFICANT)


def test_no_effect_is_found_without_a_planted_one():
    claims = [
        figures["verdict"] in {BETTER, WORSE}
        for seed in range(12)
        for figures in list(analyse_all(simulate(seed, (0.15,) * 4, n_groups=30), draws=200)["arms"].values())[1:]
    ]
    assert sum(claims) <= 2  # of 36


def test_an_mcc_is_the_mean_over_fits(planted, report):
    for number, name in enumerate(CONDITIONS):
        by_fit = [matthews_corrcoef(fit[number]["label"], fit[number]["probability"] >= 0.5) for fit in planted]
        assert report["arms"][name]["mcc"]["by_fit"] == pytest.approx(by_fit)
        assert report["arms"][name]["mcc"]["value"] == pytest.approx(np.mean(by_fit))
    gaps = np.subtract(report["arms"]["bad"]["mcc"]["by_fit"], report["arms"]["plain"]["mcc"]["by_fit"])
    assert report["arms"]["bad"]["difference"]["by_fit"] == pytest.approx(gaps)


def test_interval_matches_a_bootstrap_of_groups_and_fits(planted, report):
    rng = np.random.default_rng(5)
    groups = np.unique(np.concatenate([fit[0]["group"] for fit in planted]))
    places = [np.searchsorted(groups, fit[0]["group"]) for fit in planted]
    decided = [[(fit[k]["label"], fit[k]["probability"] >= 0.5) for k in (0, 3)] for fit in planted]
    drawn = []
    for _ in range(400):
        times = np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
        gaps = []
        for fit in rng.integers(len(planted), size=len(planted)):
            plain, bad = (np.corrcoef(np.repeat(pair, times[places[fit]], axis=1))[0, 1] for pair in decided[fit])
            gaps.append(bad - plain)
        drawn.append(np.mean(gaps))
    difference = report["arms"]["bad"]["difference"]
    assert [difference["low"], difference["high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)


@pytest.mark.parametrize(("n_fits", "n_groups", "why"), [(4, 100, "5 fits"), (5, 2, "10 groups")])
def test_too_little_data_gives_no_claim(n_fits, n_groups, why):
    frames = simulate(2, (0.0, 1.0), n_fits, n_groups)
    assert why in analyse_all(frames, CONDITIONS[:2])["arms"]["same"]["verdict"]


def test_p_values_match_reference_implementations():
    gaps = np.array([0.01, 0.03, -0.01, 0.02, 0.04])
    assert student_p(gaps) == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)
    assert student_p(np.zeros(5)) == student_p(np.array([0.3])) == 1
    assert student_p(np.full(4, 0.25)) == 0
    assert bootstrap_p(np.linspace(-1, 9, 1000)) == pytest.approx(0.2, abs=0.01)
    assert bootstrap_p(np.zeros(99)) == 1
    assert bootstrap_p(np.ones(99)) == pytest.approx(0.02)
    # Holm: 4 x 0.01, 3 x 0.015, then not below the one before; 0.3 stays.
    assert holm([0.02, 0.3, 0.01, 0.015]) == pytest.approx([0.045, 0.3, 0.04, 0.045])


def test_holm_correction_can_remove_a_single_effect(report):
    p_values = [report["arms"][name]["difference"]["p"] for name in CONDITIONS[1:]]
    assert [report["arms"][name]["difference"]["p_holm"] for name in CONDITIONS[1:]] == pytest.approx(holm(p_values))
    seen = {"low": 0.01, "high": 0.05, "p": 0.03, "p_holm": 0.03}
    assert judge(seen, 50, 5) == BETTER
    assert judge(seen | {"p_holm": 0.06}, 50, 5) == f"{NOT_SIGNIFICANT} (after Holm)"
    assert judge(seen | {"p": 0.06, "p_holm": 0.06}, 50, 5) == f"{NOT_SIGNIFICANT} (fits disagree)"
    assert judge(seen | {"low": -0.01}, 50, 5) == NOT_SIGNIFICANT


def test_different_rows_or_steps_give_an_error(planted):
    shuffled = [[fit[0], fit[1].iloc[::-1].reset_index(drop=True)] for fit in planted]
    with pytest.raises(DataError, match=r"\bsame\b.*\bplain\b"):
        analyse_all(shuffled, CONDITIONS[:2])
    facts = [[FACTS, FACTS | {"steps": 51}]] * 5
    with pytest.raises(WiringError, match=r"50.*51"):
        analyse(CONDITIONS[:2], [fit[:2] for fit in planted], facts, draws=100, seed=0)


def test_condition_without_any_effect_is_an_error(planted):
    with pytest.raises(WiringError, match=r"\bsame\b.*\bplain\b"):
        analyse_all([[fit[0], fit[0]] for fit in planted], CONDITIONS[:2])


def test_plot_and_json_are_written(report, tmp_path):
    whole = report | {"model": "resnet, random weights"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_ablation(whole, tmp_path / "ablation.png")
    with Image.open(tmp_path / "ablation.png") as picture:
        assert picture.width > 800
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("weighs", [True, False])
def test_report_points_to_the_gps_experiment_for_gps_weighting(report, weighs):
    sets = {name: {"data.gps_sampling.enabled": weighs and name == CONDITIONS[1]} for name in CONDITIONS}
    whole = {"model": "resnet", "img_size": 32, "frozen": False, "seeds": 5, "folds": 5, "full": False, "sets": sets}
    console = Console(file=StringIO(), width=400)
    console.print(format_report(report | whole))
    assert ("roadwork experiment gps" in console.file.getvalue()) == weighs
