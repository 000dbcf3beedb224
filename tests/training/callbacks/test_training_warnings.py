"""The monitor warns about collapsed predictions and training that cannot learn, and nothing else."""

import logging

import pytest
import torch
from fixtures.tiny_fits import N_STEPS, SPLITS, monitor_of
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from roadwork.core.errors import WiringError
from roadwork.training import module as module_file
from roadwork.training.callbacks.training_monitor import SKIPPED_FILE
from roadwork.training.optim import build_optimizer


def alarms(caplog):
    return [r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("roadwork")]


def test_working_fit_gives_no_warning(fits, caplog):
    with caplog.at_level(logging.INFO, "roadwork"):
        trainer = fits.fit(use_ema=False)
    assert trainer.mcc_callback.best_mcc > 0.5
    assert [record.getMessage() for record in alarms(caplog)] == []
    assert monitor_of(trainer).n_skipped == 0
    assert not (trainer.run_folder / SKIPPED_FILE).exists()
    n = SPLITS["train"]
    (message,) = [r.getMessage() for r in caplog.records if f"2 epochs of {n} draws" in r.getMessage()]
    assert f"{n} rows" in message


@pytest.mark.parametrize(
    ("bias", "name", "other"),
    [(1e6, "Roadwork", "None"), pytest.param(-1e6, "None", "Roadwork", marks=pytest.mark.slow)],
)
def test_single_class_predictions_give_warnings(fits, caplog, bias, name, other):
    def tilt(trainer):
        nn.init.constant_(trainer.module.model.classifier[1].weight, 0)
        trainer.module.model.classifier[1].bias.data = torch.tensor([0.0, bias])

    trainer = fits.fit(prepare=tilt, epochs=4, lr=1e-4)
    assert monitor_of(trainer).n_collapsed == 4  # the sanity check before training does not count
    warnings = [r.getMessage() for r in alarms(caplog) if "predicts" in r.getMessage()]
    n = SPLITS["val_select"]
    for epoch, warning in enumerate(warnings, 1):
        assert f"Epoch {epoch}: the model predicts {name} for all {n} val_select photos" in warning
        assert f"{n // 2} (50 %) are labelled {other}" in warning
        assert f"mean of {float(bias > 0):.4f}" in warning
    assert len(warnings) == 4
    (louder,) = [r.getMessage() for r in alarms(caplog) if r.levelno >= logging.ERROR]
    assert "3 consecutive validations" in louder
    assert "training.lr (it is 0.0001)" in louder


def test_validation_with_both_classes_resets_the_count(fits, caplog):
    class Tilt(Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.model.classifier[1].bias.data += torch.tensor([0.0, 1e6]) * (trainer.current_epoch == 0)

        def on_validation_end(self, trainer, pl_module):
            pl_module.model.classifier[1].bias.data -= torch.tensor([0.0, 1e6]) * (trainer.current_epoch == 0)

    trainer = fits.fit(Tilt(), use_ema=False)
    assert monitor_of(trainer).n_collapsed == 0
    assert len([r for r in alarms(caplog) if "predicts" in r.getMessage()]) == 1


def test_photo_with_non_finite_logits_is_named(fits, caplog):
    class Fault(Callback):
        row = None

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 1:
                batch["image"][2] = float("inf")
                self.row = int(batch["index"][2])

    fault = Fault()
    trainer = fits.fit(fault, epochs=1, use_ema=False)
    named = str(fits.datamodule.table.ids[fault.row])
    n = SPLITS["val_select"]
    assert [r.getMessage() for r in alarms(caplog)] == [
        f"Epoch 1: 1 of {n} val_select photos have non-finite logits: {named}."
    ]
    assert monitor_of(trainer).n_collapsed == 0


def schedule(zero):
    """A replacement of `warmup_cosine` whose rate is 0 in the steps (from 0) for which `zero(step)` holds."""
    return lambda optimizer, total_steps, warmup: LambdaLR(optimizer, lambda step: float(not zero(step)))


def test_zero_learning_rate_inside_the_schedule_warns(fits, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step in {0, 3, 4}))
    fits.fit(epochs=2)
    assert [r.getMessage() for r in alarms(caplog)] == [
        f"Step 4 of {2 * N_STEPS} has a learning rate of 0.",
        f"Epoch 1: 2 of {N_STEPS} steps had a learning rate of 0, and 0 had zero gradients.",
    ]


def test_zero_learning_rate_at_both_ends_is_allowed(fits, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step in {0, N_STEPS - 1}))
    fits.fit(epochs=1, use_ema=False)
    assert not [r for r in alarms(caplog) if "learning rate" in r.getMessage()]


def test_epoch_with_zero_learning_rate_stops_the_run(fits, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step >= N_STEPS))
    with pytest.raises(WiringError, match=rf"learning rate.*\b0\b.*\b{N_STEPS} steps of epoch 2"):
        fits.fit(epochs=3)


def test_zero_gradients_stop_the_run(fits, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "training_loss", lambda logits, *rest: logits.sum() * 0)
    with pytest.raises(WiringError, match=rf"gradient.*\b0\b.*\b{N_STEPS} steps of epoch 1"):
        fits.fit(epochs=1)
    assert "Every gradient is 0 in step 1." in [r.getMessage() for r in alarms(caplog)]


def other_weights(model, *arguments, **options):
    """An optimizer with copies of the weights, as if built before the network was complete."""
    return build_optimizer(nn.ParameterList([p.detach().clone() for p in model.parameters()]), *arguments, **options)


@pytest.mark.parametrize("fault", ["optimizer", "rate"])
def test_unchanged_weights_stop_the_run(fits, monkeypatch, fault):
    if fault == "optimizer":
        monkeypatch.setattr(module_file, "build_optimizer", other_weights)
    lr = 1e-30 if fault == "rate" else 0.01
    with pytest.raises(WiringError, match=rf"weight.*\b{N_STEPS} steps of epoch 1.*\b{N_STEPS}\b"):
        fits.fit(epochs=1, lr=lr, use_ema=False)
