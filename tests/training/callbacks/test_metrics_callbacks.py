"""metrics.jsonl is valid JSON, also with non-finite metrics."""

import json
import math
from types import SimpleNamespace

import pytest
import torch

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
