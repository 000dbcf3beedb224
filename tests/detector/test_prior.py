"""`roadwork predict --estimate-prior`: what is adjusted, and when nothing is."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from fixtures.detectors import FACTS, make_model_folder
from fixtures.photos import make_photos
from scipy.special import expit, logit

from roadwork.calibration.label_shift import ScoreHistogram
from roadwork.cli import main
from roadwork.detector.familiarity import UNFAMILIAR, Familiarity, unknown
from roadwork.detector.format import ExportFacts
from roadwork.detector.outputs import Record
from roadwork.detector.prior import adjust_to_prior, group_photos

UNKNOWN = unknown("no reference.")


def draw(share, n, seed, offset=0.0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(int)
    return labels, 2 * (2 * labels - 1) + 2 * rng.normal(size=n) + offset


SCORES = ScoreHistogram.fit(*draw(0.5, 800, 99), np.arange(800), logit(FACTS.threshold))


def records_of(log_odds):
    found = [
        Record(str(number), f"{number}.jpg", "None", float(p), False, *position)
        for number, (p, position) in enumerate(
            zip(expit(log_odds), zip(np.linspace(50, 55, len(log_odds)), [10.0] * len(log_odds), strict=True),
                strict=True)
        )
    ]  # fmt: skip
    return [*found, Record("x", "x.jpg", error="truncated")]


def test_labels_follow_bayes_rule_at_the_estimated_share():
    log_odds = draw(0.1, 500, 1)[1]
    records = records_of(log_odds)
    found = adjust_to_prior(FACTS, SCORES, records, UNKNOWN)
    assert found.is_used
    prior = found.estimate.prior
    assert prior == pytest.approx(0.1, abs=0.04)
    adjusted = list(found.apply(records))
    expected = expit(log_odds + logit(prior) - logit(SCORES.prior))
    np.testing.assert_allclose([record.probability for record in adjusted[:-1]], expected)
    threshold = expit(logit(FACTS.threshold) + logit(FACTS.prior) - logit(SCORES.prior))
    assert [record.label == "Roadwork" for record in adjusted[:-1]] == (expected >= threshold).tolist()
    assert adjusted[-1] == records[-1]
    assert found.facts.prior == pytest.approx(prior)
    assert sum(record.label == "Roadwork" for record in adjusted) < (log_odds >= logit(FACTS.threshold)).sum()
    before, after = found.expected
    assert after["recall"] < before["recall"]
    assert after["false_alarm_rate"] < before["false_alarm_rate"]


def test_threshold_for_a_prior_stays_at_that_prior():
    """A threshold that was chosen for the estimated share keeps its decisions."""
    log_odds = draw(0.1, 500, 1)[1]
    records = records_of(log_odds)
    prior = adjust_to_prior(FACTS, SCORES, records, UNKNOWN).estimate.prior
    facts = replace(FACTS, prior=prior)
    found = adjust_to_prior(facts, SCORES, records, UNKNOWN)
    labels = [record.label == "Roadwork" for record in list(found.apply(records))[:-1]]
    assert labels == (log_odds >= logit(FACTS.threshold)).tolist()
    inside = (log_odds >= logit(facts.abstain_low)) & (log_odds <= logit(facts.abstain_high))
    assert [record.abstain for record in list(found.apply(records))[:-1]] == inside.tolist()


@pytest.mark.parametrize(
    ("offset", "familiarity", "part"),
    [(2.5, UNKNOWN, "no mixture"), (0.0, Familiarity(UNFAMILIAR), "do not look like")],
)
def test_refused_estimates_change_nothing(offset, familiarity, part):
    records = records_of(draw(0.1, 500, 1, offset)[1])
    found = adjust_to_prior(FACTS, SCORES, records, familiarity)
    assert not found.is_used
    assert part in found.lines(FACTS)[0]
    assert list(found.apply(records)) == records
    assert (found.facts, found.shift) == (FACTS, 0.0)


def test_photos_are_grouped_by_place_or_in_blocks():
    near = np.array([[52.5, 13.4]] * 3 + [[48.1, 11.6]])
    assert len(np.unique(group_photos(near))) == 2
    unknown_places = np.full((400, 2), np.nan)
    groups = group_photos(unknown_places)
    assert (len(np.unique(groups)), np.bincount(groups).max()) == (40, 10)


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, arguments)])
    return ended.value.code or 0


@pytest.fixture
def photos(tmp_path):
    make_photos(tmp_path / "photos", 60)
    return tmp_path / "photos"


def read_rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# The network's probabilities lie on both sides of this threshold.
BETWEEN = replace(FACTS, threshold=0.373, abstain_low=0.37, abstain_high=0.376)


def with_scores_of(model, path, share_of_none):
    """An export whose val_calib scores are those of the photos themselves, most of them None."""
    log_odds = logit(np.array([float(row["probability"]) for row in read_rows(path)]))
    labels = (log_odds > np.quantile(log_odds, share_of_none)).astype(int)
    rng = np.random.default_rng(0)
    repeated = rng.integers(len(labels), size=600)
    scores = ScoreHistogram.fit(labels[repeated], log_odds[repeated], np.arange(600), logit(BETWEEN.threshold))
    config = json.loads((model / "config.json").read_text())
    config["roadwork"] = replace(BETWEEN, scores=scores).as_config()
    (model / "config.json").write_text(json.dumps(config))
    return scores


def test_command_adjusts_and_records_the_share(photos, tmp_path, capsys):
    model = make_model_folder(tmp_path / "model", facts=BETWEEN)
    assert run(model, photos, "--out", tmp_path / "plain.csv") == 0
    scores = with_scores_of(model, tmp_path / "plain.csv", 0.7)
    assert ExportFacts.read(model).scores == scores
    assert run(model, photos, "--out", tmp_path / "same.csv") == 0
    assert (tmp_path / "same.csv").read_bytes() == (tmp_path / "plain.csv").read_bytes()
    assert run(model, photos, "--out", tmp_path / "new.geojson", "--estimate-prior") == 0
    content = json.loads((tmp_path / "new.geojson").read_text())
    found = content["roadwork"]["estimated_prior"]
    assert found["is_used"], found["reasons"]
    assert "scores" not in content["roadwork"]
    assert content["roadwork"]["prior"] == pytest.approx(found["prior"])
    before = [float(row["probability"]) for row in read_rows(tmp_path / "plain.csv")]
    after = [feature["properties"]["probability"] for feature in content["features"]]
    shift = logit(found["prior"]) - logit(scores.prior)
    np.testing.assert_allclose(logit(after), logit(before) + shift, atol=1e-6)
    assert "Estimated share of Roadwork" in capsys.readouterr().out


def test_models_without_scores_and_views_are_rejected(photos, tmp_path, capsys):
    model = make_model_folder(tmp_path / "model")
    assert run(model, photos, "--out", tmp_path / "new.csv", "--estimate-prior") == 1
    assert run(model, photos, "--out", tmp_path / "new.csv", "--estimate-prior", "--views", "flip") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "roadwork calibrate RUN" in shown
    assert "--views flip" in shown
    assert not (tmp_path / "new.csv").exists()
