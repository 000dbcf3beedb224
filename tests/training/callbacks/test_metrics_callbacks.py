"""metrics.jsonl is valid JSON, also with non-finite metrics; without a progress bar, training logs its steps."""

import json
import logging
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from roadwork.core import progress
from roadwork.training.callbacks.metrics_callbacks import MetricsLogCallback


def refuse(constant):
    raise ValueError(f"{constant} is no JSON")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_metric_is_null(tmp_path, value):
    log = MetricsLogCallback(tmp_path / "metrics.jsonl")
    figures = {"val_select/loss": torch.tensor(value), "val_select/mcc": torch.tensor(0.5), "lr-AdamW": torch.tensor(1)}
    trainer = SimpleNamespace(
        is_global_zero=True,
        current_epoch=0,
        global_step=3,
        max_epochs=1,
        progress_bar_callback=None,
        callback_metrics=figures,
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.25}])],
    )
    log.on_fit_start(trainer, None)
    log.on_train_epoch_end(trainer, None)
    (line,) = log.path.read_text().splitlines()
    read = json.loads(line, parse_constant=refuse)
    assert read.pop("seconds") < 60
    assert read == {"epoch": 0, "step": 3, "lr": 0.25, "val_select/loss": None, "val_select/mcc": 0.5}


class Doubler(L.LightningModule):
    """A regression that learns y = 2 x."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch):
        (x,) = batch
        return (self.layer(x) - 2 * x).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("has_bar", [False, True])
def test_steps_are_logged_without_a_progress_bar(tmp_path, monkeypatch, caplog, has_bar):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    caplog.set_level(logging.INFO, logger="roadwork")
    log = MetricsLogCallback(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(log, "on_train_epoch_end", lambda *_: None)
    trainer = L.Trainer(
        callbacks=[log],
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=has_bar,
        enable_model_summary=False,
    )
    trainer.fit(Doubler(), DataLoader(TensorDataset(torch.ones(12, 1)), batch_size=4))
    lines = [record.getMessage() for record in caplog.records if "batch" in record.getMessage()]
    assert [f"{done} of 3" in line for done, line in enumerate(lines, 1)] == ([] if has_bar else [True] * 3)
