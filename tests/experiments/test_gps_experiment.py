"""The GPS weighting experiment on simulated data with a known effect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import matthews_corrcoef

from roadwork.data.table import SampleTable
from roadwork.experiments.folds import make_folds
from roadwork.experiments.gps_analysis import GAIN, HARM, NO_EVIDENCE, PRIMARY, analyse, decide_verdict
from roadwork.experiments.gps_conditions import CONDITIONS, FACTS, GPS, PLACEBO, UNIFORM, GpsExperiment, build_sampler
from roadwork.experiments.gps_seeds import RANDOM_FOLDS, TRAINED, run_seed, run_seeds
from roadwork.experiments.heads import HeadSettings
from roadwork.settings import GpsSamplingSettings

BERLIN, NEW_YORK = (52.52, 13.40), (40.71, -74.01)
GROUP_ROWS = 4


def make_experiment(
    seed: int, *, is_different: bool, n_groups: int = 60, heads: HeadSettings | None = None
) -> GpsExperiment:
    """A quarter of the groups is in Berlin, the deployment, the rest in New York.

    If the regions are different, the second feature is evidence for Roadwork in one and against it in the other, and
    no feature distinguishes them.
    """
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_groups), GROUP_ROWS)
    is_near = codes < n_groups // 4
    centers = rng.normal(size=(n_groups, 4))
    features = (centers[codes] + 0.3 * rng.normal(size=(len(codes), 4))).astype(np.float32)
    sign = np.where(is_near & is_different, -1, 1)
    labels = (centers[codes, 0] + sign * centers[codes, 1] + 0.5 * rng.normal(size=n_groups)[codes] > 0).astype(int)
    gps = np.where(is_near[:, None], BERLIN, NEW_YORK) + 0.05 * rng.normal(size=(len(codes), 2))
    ids = np.array([f"r{row:04d}" for row in range(len(codes))])
    groups = np.array([f"g{code:03d}" for code in codes])
    table = SampleTable(ids, ids, labels, gps, groups, pd.DataFrame(index=range(len(codes))))
    return GpsExperiment(
        table,
        groups,
        features,
        np.array([BERLIN]),
        "Berlin",
        GpsSamplingSettings(n_clusters=1),
        heads or HeadSettings(hidden=8, steps=60, batch_size=64, lr=0.02),
        n_folds=3,
    )


def judge(experiment: GpsExperiment, seeds: range = range(2), draws: int = 400) -> tuple[dict, dict]:
    sampler = build_sampler(experiment)
    results = [run_seed(experiment, sampler.cluster_centers, seed) for seed in seeds]
    figures = analyse(experiment, sampler, results, draws=draws, seed=0)
    return figures, decide_verdict(figures)


@pytest.fixture(scope="module")
def different() -> tuple[GpsExperiment, dict, dict]:
    experiment = make_experiment(0, is_different=True, n_groups=240)
    return experiment, *judge(experiment)


def test_gain_is_claimed_for_a_shifted_deployment(different):
    _, figures, verdict = different
    assert verdict["claim"] == GAIN
    against = figures["differences"][GPS]
    assert all(against[other][PRIMARY]["low"] > 0.05 for other in (UNIFORM, PLACEBO))
    near, *_, far = (bracket for bracket in figures["arms"][GPS]["by_bracket"] if bracket is not None)
    near_uniform, *_, far_uniform = (b for b in figures["arms"][UNIFORM]["by_bracket"] if b is not None)
    assert near["value"] > near_uniform["value"] + 0.1
    assert far["value"] < far_uniform["value"]  # the cost elsewhere


def test_harm_is_claimed_where_both_intervals_are_below_0(different):
    _, figures, _ = different
    turned = json.loads(json.dumps(figures))
    for other in (UNIFORM, PLACEBO):
        difference = turned["differences"][GPS][other][PRIMARY]
        difference["low"], difference["high"] = -difference["high"], -difference["low"]
    assert decide_verdict(turned)["claim"] == HARM
    turned["differences"][GPS][PLACEBO][PRIMARY]["high"] = 0.01
    assert decide_verdict(turned)["claim"] == NO_EVIDENCE


def test_gain_over_uniform_alone_is_not_claimed(different):
    _, figures, _ = different
    beaten = json.loads(json.dumps(figures))
    beaten["differences"][GPS][PLACEBO][PRIMARY] |= {"low": -0.05, "high": 0.35}
    verdict = decide_verdict(beaten)
    assert verdict["claim"] == NO_EVIDENCE
    assert verdict["smallest_effect"] == pytest.approx(0.2)
    assert "0.200" in verdict["reasons"][-1]


@pytest.mark.parametrize(
    ("n_worlds", "most_claims"), [pytest.param(6, 1, id="6"), pytest.param(40, 2, id="40", marks=pytest.mark.slow)]
)
def test_nothing_is_claimed_for_similar_regions(n_worlds, most_claims):
    heads = HeadSettings(hidden=8, steps=40, batch_size=64, lr=0.02)
    worlds = [make_experiment(seed, is_different=False, heads=heads) for seed in range(n_worlds)]
    verdicts = [judge(world, draws=200)[1] for world in worlds]
    claims = [verdict["claim"] for verdict in verdicts]
    assert claims.count(GAIN) <= most_claims
    assert claims.count(NO_EVIDENCE) >= 0.8 * n_worlds  # a smaller effective sample size can do harm


def test_few_groups_give_no_claim(different):
    _, figures, _ = different
    few = json.loads(json.dumps(figures))
    few["differences"][GPS][PLACEBO]["differing_groups"] = 9.9
    verdict = decide_verdict(few)
    assert verdict["claim"] == NO_EVIDENCE
    assert "10" in verdict["reasons"][-1]


def test_equal_weights_give_no_claim():
    experiment = make_experiment(1, is_different=False)
    flat = replace(experiment, sampling=GpsSamplingSettings(n_clusters=1, weight_brackets=[[0, "inf", 2.0]]))
    figures, verdict = judge(flat, draws=100)
    assert figures["differences"][GPS][UNIFORM][PRIMARY]["by_seed"] == [0, 0]
    assert verdict["claim"] == NO_EVIDENCE
    assert len(verdict["reasons"]) == 3


def test_metrics_match_scikit_learn(different):
    experiment, figures, _ = different
    sampler = build_sampler(experiment)
    labels = experiment.table.labels
    results = [run_seed(experiment, sampler.cluster_centers, seed) for seed in (0, 1)]
    for name in CONDITIONS:
        decisions = [result.probabilities[TRAINED.index(name)] >= 0.5 for result in results]
        expected = [matthews_corrcoef(labels, d, sample_weight=sampler.weights) for d in decisions]
        np.testing.assert_allclose(figures["arms"][name][PRIMARY]["by_seed"], expected)
        np.testing.assert_allclose(
            figures["arms"][name]["mcc"]["value"], np.mean([matthews_corrcoef(labels, d) for d in decisions])
        )
    gps, uniform = (figures["arms"][name][PRIMARY]["value"] for name in (GPS, UNIFORM))
    assert figures["differences"][GPS][UNIFORM][PRIMARY]["value"] == pytest.approx(gps - uniform)
    assert [bracket["rows"] for bracket in figures["brackets"]] == [240, 0, 0, 720, 0]
    json.dumps(figures, allow_nan=False)


def test_random_folds_overestimate_mcc():
    """Random labels of groups cannot be predicted, except from rows of the same group in training."""
    experiment = make_experiment(0, is_different=False, heads=HeadSettings(hidden=64, steps=200, lr=0.02))
    toss = np.random.default_rng(1).integers(2, size=60)
    table = replace(experiment.table, labels=np.repeat(toss, GROUP_ROWS))
    features = np.repeat(experiment.features[::GROUP_ROWS], GROUP_ROWS, axis=0)
    figures, _ = judge(replace(experiment, table=table, features=features), range(1))
    assert figures["random_folds"]["difference"]["low"] > 0.2


def test_held_out_rows_are_not_trained_on(monkeypatch: pytest.MonkeyPatch):
    """Flipped labels in fold 0 change no prediction in fold 0, and those of the other folds, in all conditions."""
    experiment = make_experiment(2, is_different=False)
    folds = make_folds(experiment.table, experiment.groups, 3, 0)
    monkeypatch.setattr("roadwork.experiments.gps_seeds.make_folds", lambda *_: folds)
    before = run_seed(experiment, np.array([BERLIN]), 0).probabilities
    turned = np.where(folds == 0, 1 - experiment.table.labels, experiment.table.labels)
    poisoned = replace(experiment, table=replace(experiment.table, labels=turned))
    after = run_seed(poisoned, np.array([BERLIN]), 0).probabilities
    changed = (before != after)[: len(CONDITIONS)]
    assert not changed[:, folds == 0].any()
    assert changed[:, folds == 1].all()


def test_conditions_share_folds_and_seeds():
    """With equal weights everywhere, gps and uniform give bitwise equal predictions."""
    experiment = make_experiment(3, is_different=False)
    flat = replace(experiment, sampling=GpsSamplingSettings(n_clusters=1, weight_brackets=[[0, "inf", 1.0]]))
    probabilities = run_seed(flat, np.array([BERLIN]), 5).probabilities
    for name in (GPS, PLACEBO, "gps_half_dose"):
        np.testing.assert_array_equal(probabilities[TRAINED.index(name)], probabilities[TRAINED.index(UNIFORM)])
    assert (probabilities[TRAINED.index(RANDOM_FOLDS)] != probabilities[TRAINED.index(UNIFORM)]).any()


def test_finished_seeds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    experiment, centers = make_experiment(4, is_different=False), np.array([BERLIN])
    trained = []

    def count(experiment: GpsExperiment, centers: np.ndarray, seed: int, **options: object):
        trained.append(seed)
        return run_seed(experiment, centers, seed, **options)

    monkeypatch.setattr("roadwork.experiments.gps_seeds.run_seed", count)
    first = run_seeds(experiment, centers, [0], tmp_path)
    both = run_seeds(experiment, centers, [0, 1], tmp_path)
    assert trained == [0, 1]
    np.testing.assert_array_equal(first[0].probabilities, both[0].probabilities)
    assert both[1].facts.shape == (len(CONDITIONS), len(FACTS))
    run_seeds(
        replace(experiment, sampling=GpsSamplingSettings(n_clusters=1, missing_weight=2.0)), centers, [0], tmp_path
    )
    assert trained == [0, 1, 0]  # another configuration
    for path in tmp_path.rglob("seed-1.npz"):
        path.write_bytes(b"PK cut off")
    run_seeds(experiment, centers, [1], tmp_path)
    assert trained == [0, 1, 0, 1]
