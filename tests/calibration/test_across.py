"""Thresholds for unseen regions, on planted offsets of the logits."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, matthews_corrcoef

from roadwork.calibration.across import AcrossRows, apply_across
from roadwork.calibration.data import Rows
from roadwork.core.errors import ConfigError
from roadwork.metrics.decision import probability

IN_REGION = {
    "temperature": 2.0,
    "threshold": 0.6,
    "prior": 0.5,
    "threshold_fit": {"best": 0.6, "interval": [0.5, 0.7]},
    "abstain": {"promised": True, "low": 0.4, "high": 0.8, "sentence": "on"},
    "curve": [{"threshold": 0.6, "mcc": 0.5}],
}


def draw_regions(offsets, sizes=None, seed=0, spread=1.5):
    """Rows of one region per offset; the best cut of a region is its offset."""
    rng = np.random.default_rng(seed)
    sizes = sizes or [200] * len(offsets)
    regions = np.repeat([f"r{i}" for i in range(len(offsets))], sizes)
    labels = np.concatenate([np.arange(size) % 2 for size in sizes])
    margins = 2.0 * (2 * labels - 1) + rng.normal(0, spread, len(labels)) + np.repeat(offsets, sizes)
    return Rows(labels, margins, regions)


def across(rows):
    return apply_across(IN_REGION, AcrossRows("city", rows))


def cut_of(calibration):
    return calibration["temperature"] * logit(calibration["threshold"])


OFFSETS = [3.0, 3.4, 2.8, 3.1, 2.7, 3.0]


def test_planted_offset_is_found_and_helps():
    found = across(draw_regions(OFFSETS))
    assert found["across"]["kept"]
    assert cut_of(found) == pytest.approx(3.0, abs=0.7)
    assert cut_of(IN_REGION) == pytest.approx(0.81, abs=0.01)
    assert found["across"]["gain_interval"][0] > 0
    before, after = (found["across"]["unseen"][name] for name in ("val_calib", "across"))
    assert after["balanced_accuracy"] > before["balanced_accuracy"] + 0.1
    assert (found["abstain"]["promised"], found["abstain"]["low"]) == (False, None)


def test_region_is_measured_by_a_cut_from_the_others():
    rows = draw_regions(OFFSETS[:3], [20, 60, 44])
    by_region = across(rows)["across"]["by_region"]
    for region in by_region:
        own = rows.groups == region["region"]
        others, labels = rows.take(~own), rows.labels[own]
        sizes = {group: (others.groups == group).sum() / 2 for group in set(others.groups)}  # of each label
        weights = np.array([min(1, 20 / sizes[group]) for group in others.groups])
        cuts = (np.sort(others.margins)[1:] + np.sort(others.margins)[:-1]) / 2
        scores = [matthews_corrcoef(others.labels, others.margins >= cut, sample_weight=weights) for cut in cuts]
        called = rows.margins[own] >= cuts[int(np.argmax(scores))]
        tn, fp, fn, tp = confusion_matrix(labels, called).ravel()
        assert region["across"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, called))
        assert region["across"]["recall"] == pytest.approx(tp / (tp + fn))
        assert region["across"]["false_alarm_rate"] == pytest.approx(fp / (fp + tn))
        called = rows.margins[own] >= cut_of(IN_REGION)
        assert region["val_calib"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, called))


@pytest.mark.parametrize("offsets", [[0.8] * 5, [-4, 4, -3, 5, 1]])
def test_no_common_offset_keeps_the_old_decisions(offsets):
    found = across(draw_regions(offsets))
    assert not found["across"]["kept"]
    assert cut_of(found) == pytest.approx(cut_of(IN_REGION))
    assert "does not help" in found["across"]["sentence"]


def test_temperature_moves_band_and_curve_with_it():
    rows = draw_regions([-4, 4, -3, 5, 1])
    found = across(rows)
    fit = found["across"]["temperature"]
    assert fit["kept"]
    assert fit["nll"] < fit["nll_val_calib"]
    signed = probability(rows.margins, 2.0)
    assert fit["nll_val_calib"] == pytest.approx(log_loss(rows.labels, signed))  # equal sizes weigh alike
    ratio = found["temperature"] / 2.0
    assert ratio != pytest.approx(1)
    for moved, old in (
        (found["abstain"]["low"], 0.4),
        (found["abstain"]["high"], 0.8),
        (found["curve"][0]["threshold"], 0.6),
        (found["threshold_fit"]["interval"][1], 0.7),
    ):
        assert logit(moved) * ratio == pytest.approx(logit(old))


def test_regions_count_alike_whatever_their_size():
    rows = draw_regions([3, 3, 3, 0])
    large = rows.groups == "r3"
    copies = [np.concatenate([values, np.tile(values[large], 20)]) for values in (rows.labels, rows.margins)]
    more = Rows(*copies, np.concatenate([rows.groups, np.tile(rows.groups[large], 20)]))
    for cut, figures in across(rows)["across"]["unseen"].items():
        assert across(more)["across"]["unseen"][cut] == pytest.approx(figures)


def test_region_with_one_label_counts_for_its_rate_only():
    rows = draw_regions(OFFSETS)
    rows = rows.take((rows.groups != "r0") | (rows.labels == 1))
    first = across(rows)["across"]["by_region"][0]
    assert (first["region"], first["n"], first["roadwork"]) == ("r0", 100, 100)
    assert first["across"]["balanced_accuracy"] is None
    assert first["across"]["false_alarm_rate"] is None
    assert first["across"]["recall"] > 0.5


def test_rows_without_a_region_are_not_used():
    rows = draw_regions(OFFSETS)
    known = across(rows)
    labels, margins = np.append(rows.labels, [0] * 50), np.append(rows.margins, [9.0] * 50)
    found = across(Rows(labels, margins, np.append(rows.groups, [""] * 50)))
    assert found["across"].pop("rows_without_region") == 50
    assert known["across"].pop("rows_without_region") == 0
    assert found == known


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (draw_regions([0, 0]), r"2 regions.*r0 \(200 rows\), r1 \(200 rows\)"),
        (Rows(np.array([0, 0, 1]), np.zeros(3), np.array(["a", "b", "c"])), "1 have Roadwork"),
    ],
)
def test_too_few_regions_are_named(rows, part):
    with pytest.raises(ConfigError, match=f"--across city.*{part}"):
        across(rows)
