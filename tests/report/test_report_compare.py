"""Comparison of runs: differences on shared rows, and when they are not significant."""

import numpy as np
import pytest
from fixtures.report_runs import copy_run, random_logits, rewrite
from sklearn.metrics import matthews_corrcoef

from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.report.report import compare_section, settings_that_differ
from roadwork.report.run_files import read_run


@pytest.fixture(scope="module")
def made_runs(tiny_run, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("made"), []
    for name, sharpness, seed in (("a", 0.4, 0), ("b", 4.0, 1), ("c", 0.4, 0)):
        run = copy_run(tiny_run, folder / name)
        made.append(rewrite(run, lambda frame, s=sharpness, r=seed: one_group_per_row(random_logits(frame, s, r))))
    return made


@pytest.fixture
def runs(made_runs, tmp_path):
    """Three runs: a weak detector, a better one, and a copy of the first."""
    return [copy_run(run, tmp_path / run.name) for run in made_runs]


def one_group_per_row(frame):
    """Each row is its own group, and most rows are in val_test, so that differences are significant."""
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
    assert "Better" in better.sentence
    assert (same.value, same.n_differing, same.interval) == (0, 0, (0, 0))
    assert same.deciding_groups == 0
    assert "Not significantly different" in same.sentence
    (_, worse) = differences(runs[1], runs[0])
    assert "Worse" in worse.sentence


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


def test_runs_without_shared_rows_are_not_compared(runs):
    path = runs[1] / "predictions.parquet"
    frame = read_predictions(path)
    write_predictions(frame.assign(id="other-" + frame["id"]), path)
    (_, difference) = differences(*runs[:2])
    assert difference.value is None
    assert difference.n == 0


def test_settings_that_differ_are_listed(runs):
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
