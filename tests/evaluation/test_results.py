import io
import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import matthews_corrcoef

from roadwork.core.errors import ConfigError, DataError
from roadwork.metrics.intervals import BOOTSTRAP, CLOPPER_PEARSON
from roadwork.metrics.results import errors_allowed, evaluate_predictions, format_results

BRACKETS = ((0, 50), (50, 200), (200, 500), (500, float("inf")))


def make_frame(groups=50, rows_each=4, wrong=(), distance_km=None):
    labels = np.repeat(np.arange(groups) % 2, rows_each)
    probabilities = np.where(labels == 1, 0.9, 0.1)
    probabilities[list(wrong)] = 1 - probabilities[list(wrong)]
    return pd.DataFrame(
        {
            "label": labels,
            "probability": probabilities,
            "group": np.repeat(np.arange(groups), rows_each),
            "distance_km": np.full(len(labels), 10.0) if distance_km is None else distance_km,
        }
    )


def evaluate(frame, target_mcc=0.99, draws=300):
    return evaluate_predictions(frame, target_mcc=target_mcc, draws=draws, seed=0, brackets=BRACKETS)


def show(result):
    console = Console(width=80, file=io.StringIO())
    console.print(format_results("val_test", result))
    return console.file.getvalue()


def test_the_result_is_json_and_counts_add_up():
    result = evaluate(make_frame(wrong=(0, 7, 30)))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == sum(result["confusion"].values()) == 200
    assert result["groups"] == 50
    assert result["mcc_low"] <= result["mcc"] <= result["mcc_high"]


def test_few_errors_are_not_bootstrapped_and_many_are():
    few, many = evaluate(make_frame()), evaluate(make_frame(wrong=range(0, 200, 9)))
    assert (few["method"], few["auroc_low"]) == (CLOPPER_PEARSON, None)
    assert few["mcc"] == 1.0
    assert few["mcc_low"] < 0.9
    assert many["method"] == BOOTSTRAP
    assert many["auroc_low"] < many["auroc"] < many["auroc_high"]


def test_brackets_are_half_open_and_missing_gps_is_separate():
    distance = np.tile([0.0, 49.9, 50.0, np.nan], 50)
    result = evaluate(make_frame(wrong=(3,), distance_km=distance))
    rows = {(row["from_km"], row["to_km"]): row for row in result["by_distance"]}
    assert {key: row["n"] for key, row in rows.items()} == {
        (0, 50): 100, (50, 200): 50, (200, 500): 0, (500, "inf"): 0, (None, None): 50,
    }  # fmt: skip
    assert rows[500, "inf"]["mcc"] is None
    assert rows[None, None]["errors"] == 1
    expected = matthews_corrcoef(np.arange(50) % 2, np.r_[1, np.arange(1, 50) % 2])
    assert rows[None, None]["mcc"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frame", "target", "verdict"),
    [
        (make_frame(), 0.99, "not decided by this set"),
        (make_frame(), 0.5, "shown"),
        (make_frame(groups=200, wrong=range(0, 800, 9)), 0.99, "excluded"),
    ],
)
def test_the_verdict_follows_from_the_interval(frame, target, verdict):
    result = evaluate(frame, target)
    assert result["target"]["verdict"] == verdict
    assert result["target"]["sentence"] in " ".join(show(result).split())


def test_errors_allowed_are_the_last_that_keep_the_target():
    nones, roadworks = 300, 180
    evenly, at_worst = errors_allowed(nones, roadworks, 0.99)

    def score(fp, fn):
        labels = np.repeat([0, 1], [nones, roadworks])
        decided = np.r_[np.arange(nones) < fp, np.arange(roadworks) >= fn].astype(int)
        return matthews_corrcoef(labels, decided)

    def worst_even(errors):
        return min(score(errors // 2, errors - errors // 2), score(errors - errors // 2, errors // 2))

    def worst_class(errors):
        return min(score(errors, 0), score(0, errors))

    assert worst_even(evenly) >= 0.99 > worst_even(evenly + 1)
    assert worst_class(at_worst) >= 0.99 > worst_class(at_worst + 1)


def test_error_free_groups_needed_are_enough():
    needed = evaluate(make_frame())["target"]["error_free_groups_needed"]
    assert needed == pytest.approx(736, abs=2)  # ln(0.025) / ln(1 - 0.005): balanced classes, MCC about 1 - 2 errors
    assert evaluate(make_frame(groups=needed + needed % 2, rows_each=1))["target"]["verdict"] == "shown"
    assert evaluate(make_frame(), target_mcc=1.0)["target"]["error_free_groups_needed"] == "inf"


def test_a_set_of_one_class_has_no_mcc():
    frame = make_frame()
    result = evaluate(frame[frame["label"] == 0])
    assert result["mcc"] is result["mcc_low"] is result["auroc"] is None
    assert result["accuracy"] == 1.0
    assert "one class only" in show(result)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.5, float("nan")])
def test_a_target_out_of_range_is_refused(target):
    with pytest.raises(ConfigError, match=r"evaluation\.target_mcc"):
        evaluate(make_frame(), target)


def test_an_empty_split_is_refused():
    with pytest.raises(DataError, match="no predictions"):
        evaluate(make_frame().iloc[:0])


def test_table_fits_80_columns_and_shows_groups_needed():
    text = show(evaluate(make_frame(groups=500, wrong=range(0, 2000, 30))))
    assert max(map(len, text.splitlines())) <= 80
    for needed in ("2,000 rows in 500 groups", "MCC", "95 % interval", "predicted Roadwork", "500 or more", "Verdict"):
        assert needed in text


def test_leaks_are_reported_beside_the_verdict():
    result = evaluate(make_frame())
    assert "Leaks" not in show(result)
    assert "Leaks  a RANDOM split" in show(result | {"leaks": ["a RANDOM split, which leaks by design"]})
