"""Runs side by side: the difference on the rows of both, and what keeps it from being believed."""

import numpy as np
import pytest
from report_worlds import copy_run, random_logits, rewrite
from sklearn.metrics import matthews_corrcoef

from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.report.report import compare_section, settings_that_differ
from roadwork.report.run_files import read_run


@pytest.fixture(scope="module")
def made_runs(tiny_run, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("made"), []
    for name, sharpness, seed in (("a", 0.4, 0), ("b", 4.0, 1), ("c", 0.4, 0)):
        run = copy_run(tiny_run, folder / name)
        made.append(rewrite(run, lambda frame, s=sharpness, r=seed: alone(random_logits(frame, s, r))))
    return made


@pytest.fixture
def runs(made_runs, tmp_path):
    """Three copies, each of another detector: so-so, better, and as the first."""
    return [copy_run(run, tmp_path / run.name) for run in made_runs]


def alone(frame):
    """Each row a group of its own, and most of them in val_test: enough for a difference to be seen."""
    split = np.where(np.arange(len(frame)) % 4 == 0, "val_calib", "val_test")
    return frame.assign(group=frame["id"], split=split)


def differences(*folders):
    return [entry["difference"] for entry in compare_section([read_run(folder) for folder in folders]).shown["runs"]]


def test_difference_uses_each_runs_own_threshold(runs):
    none, better, same = differences(*runs)
    first, other = (read_run(run) for run in runs[:2])
    scores = [
        matthews_corrcoef(run.test_rows["label"], run.test_rows["probability"] >= run.threshold)
        for run in (first, other)
    ]
    assert none is None
    assert better.mcc == pytest.approx(scores)
    assert better.value == pytest.approx(scores[1] - scores[0])
    assert better.interval[0] < better.value < better.interval[1]
    assert better.sentence.startswith("Better than the first")
    assert (same.value, same.n_differing, same.interval) == (0, 0, (0, 0))
    assert "cannot be told from chance" in same.sentence
    (_, worse) = differences(runs[1], runs[0])
    assert worse.sentence.startswith("Worse than the first")


def test_rows_predicted_by_one_run_are_excluded_and_reported(runs):
    path = runs[1] / "predictions.parquet"
    frame = read_predictions(path)
    test = np.flatnonzero(frame["split"] == "val_test")
    write_predictions(frame.drop(index=test[:7]), path)
    frame = read_predictions(path)
    row = np.flatnonzero(frame["split"] == "val_test")[0]
    frame.loc[row, "label"] = 1 - frame.loc[row, "label"]
    write_predictions(frame, path)
    (_, difference) = differences(*runs[:2])
    assert (difference.only_first, difference.only_other, difference.relabelled) == (7, 0, 1)
    assert difference.n == len(test) - 8


def test_runs_without_a_row_in_common_are_not_compared(runs):
    path = runs[1] / "predictions.parquet"
    frame = read_predictions(path)
    write_predictions(frame.assign(id="other-" + frame["id"]), path)
    (_, difference) = differences(*runs[:2])
    assert difference.value is None
    assert "no row of val_test in common" in difference.sentence


def test_settings_that_differ_are_named(runs):
    text = (runs[1] / "config.yaml").read_text()
    (runs[1] / "config.yaml").write_text(text.replace("lr: ", "lr: 0.5 # ", 1))
    ((key, values),) = settings_that_differ([read_run(run) for run in runs[:2]])
    assert key == "training.lr"
    assert values[1] == "0.5"
    assert values[0] != "0.5"


def test_unevaluated_run_is_listed_with_the_others(runs):
    (runs[1] / "predictions.parquet").unlink()
    (runs[1] / "results.json").unlink()
    assert differences(*runs[:2]) == [None, None]
