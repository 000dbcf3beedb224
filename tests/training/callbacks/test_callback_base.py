"""Callbacks check their order, and see optimizer steps rather than batches."""

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from roadwork.core.errors import WiringError
from roadwork.settings import TrainingSettings
from roadwork.training.callbacks.adalora_callback import AdaLoraCallback
from roadwork.training.callbacks.base import OptimizerStepCallback
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.callbacks.training_monitor import TrainingMonitorCallback

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")


class Tiny(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(3, 2)

    def training_step(self, batch, batch_idx):
        return self.model(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, *callbacks, **arguments):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **arguments,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.ones(8, 3), batch_size=2))
    return trainer


@pytest.mark.parametrize("late", ["AdaLoraCallback", "TrainingMonitorCallback"])
def test_callback_before_ema_is_an_error(tmp_path, late):
    module = Tiny()
    ema = EMACallback(module.model)
    callback = (
        AdaLoraCallback(ema) if late == "AdaLoraCallback" else TrainingMonitorCallback(TrainingSettings(), tmp_path)
    )
    with pytest.raises(WiringError, match=rf"{late}.*EMACallback"):
        fit(module, callback, ema)


@pytest.mark.parametrize(("accumulate", "last_batches"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (3, [2, 3])])
def test_step_hook_is_called_once_per_optimizer_step(accumulate, last_batches):
    class Count(OptimizerStepCallback):
        seen = ()

        def on_optimizer_step_end(self, trainer, pl_module, batch_idx):
            self.seen += (batch_idx,)

    count = Count()
    trainer = fit(Tiny(), count, accumulate_grad_batches=accumulate)
    assert list(count.seen) == last_batches
    assert trainer.global_step == len(last_batches)
