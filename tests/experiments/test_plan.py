"""The runner of fits, without training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from roadwork.core.errors import DataError
from roadwork.data.splitting.splits import Splits
from roadwork.experiments.plan import Fit, Plan, estimate_left, run_fits

HELD_OUT = ["a", "b", "c", "d"]


@pytest.fixture
def plan(tmp_path):
    """Two conditions on two folds; the first fit is finished."""
    splits = Splits({"train": [], "val_select": [], "val_calib": HELD_OUT, "val_test": []})
    names = [(condition, fold) for fold in (0, 1) for condition in ("plain", "ema")]
    cfg = OmegaConf.create()
    fits = [Fit(tmp_path / f"{name}_{fold}", cfg, splits, fold, fold, name) for name, fold in names]
    fits[0].folder.mkdir()
    fits[0].facts_file.write_text("{}")
    return Plan(tmp_path, cfg, {}, None, [splits] * 2, fits=fits)


def test_unfinished_fits_run_in_order(plan):
    trained, lines = [], []

    def train(fit, is_first):
        trained.append((fit.condition, fit.fold, is_first))
        return pd.DataFrame({"id": HELD_OUT, "label": [0, 1, 0, 1], "probability": [0.1, 0.9, 0.9, 0.9]})

    run_fits(plan, train, lines.append)
    assert trained == [("ema", 0, True), ("plain", 1, True), ("ema", 1, False)]
    assert "1 of 4" in lines[0]
    assert [line.split(":")[0] for line in lines[1:]] == ["2 of 4", "3 of 4", "4 of 4"]
    assert f"{np.corrcoef([0, 1, 0, 1], [0, 1, 1, 1])[0, 1]:.3f}" in lines[1]
    assert plan.conditions == ["plain", "ema"]


def test_an_interrupted_fit_is_not_finished(plan):
    fit = plan.fits[1]
    fit.folder.mkdir()
    fit.predictions_file.touch()
    assert not fit.is_finished
    with pytest.raises(DataError, match=r"predictions\.parquet.*--resume"):
        fit.read_predictions()


def test_remaining_time_uses_each_conditions_own_time():
    seconds = {"plain": [10.0, 20.0], "lora": [30.0]}
    assert estimate_left(seconds, ["plain", "lora", "new"]) == pytest.approx(15 + 30 + 20)
    assert estimate_left({"plain": [10.0]}, ["lora"] * 3) == pytest.approx(30)
