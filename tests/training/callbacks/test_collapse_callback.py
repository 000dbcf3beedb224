"""One class alone for a whole validation, and training that learns nothing, are told; a sound fit is left alone."""

import logging

import pytest
import torch
from health_world import N_STEPS, SPLITS, EasyFits, health_of
from lightning.pytorch.callbacks import Callback
from roadwork.training.callbacks.collapse_callback import CollapseCallback
from roadwork.training.callbacks.health_callback import SKIPPED_FILE, HealthCallback
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from roadwork.core.errors import WiringError
from roadwork.training import module as module_file
from roadwork.training.optim import build_optimizer


@pytest.fixture(scope="module")
def easy(tmp_path_factory):
    return EasyFits(tmp_path_factory.mktemp("easy"))


def alarms(caplog):
    return [r for r in caplog.records if r.levelno >= logging.WARNING and r.name.startswith("roadwork")]


def test_working_fit_raises_no_alarm(easy, caplog):
    with caplog.at_level(logging.INFO, "roadwork"):
        trainer = easy.fit(use_ema=False)
    assert trainer.mcc_callback.best_mcc > 0.5
    assert [record.getMessage() for record in alarms(caplog)] == []
    assert health_of(trainer, HealthCallback).n_skipped == 0
    assert not (trainer.run_folder / SKIPPED_FILE).exists()
    said = [record.getMessage() for record in caplog.records if "each of these is seen" in record.getMessage()]
    n = SPLITS["train"]
    assert said == [f"2 epochs of {n} draws, whose weights are worth {n} rows: each of these is seen about 2 times."]


@pytest.mark.parametrize(
    ("bias", "name", "other"),
    [(1e6, "Roadwork", "None"), pytest.param(-1e6, "None", "Roadwork", marks=pytest.mark.slow)],
)
def test_head_that_predicts_one_class(easy, caplog, bias, name, other):
    def tilt(trainer):
        nn.init.constant_(trainer.module.model.classifier[1].weight, 0)
        trainer.module.model.classifier[1].bias.data = torch.tensor([0.0, bias])

    trainer = easy.fit(prepare=tilt, epochs=4, lr=1e-4)
    callback = health_of(trainer, CollapseCallback)
    assert callback.n_in_row == 4  # the sanity check before training does not count
    warnings = [r.getMessage() for r in alarms(caplog) if "are said to be" in r.getMessage()]
    n = SPLITS["val_select"]
    assert warnings == [
        f"Epoch {epoch}: all {n} photos of val_select are said to be {name}, though {n // 2} (50 %) are {other}. "
        f"Their probability of Roadwork is {float(bias > 0):.4f}, with a standard deviation of 0.0e+00."
        for epoch in (1, 2, 3, 4)
    ]
    (louder,) = [r.getMessage() for r in alarms(caplog) if r.levelno >= logging.ERROR]
    assert louder.startswith("3 validations in a row gave one class alone")
    assert "training.lr (it is 0.0001)" in louder


def test_a_validation_with_both_classes_ends_the_row(easy, caplog):
    class Tilt(Callback):
        def on_validation_start(self, trainer, pl_module):
            pl_module.model.classifier[1].bias.data += torch.tensor([0.0, 1e6]) * (trainer.current_epoch == 0)

        def on_validation_end(self, trainer, pl_module):
            pl_module.model.classifier[1].bias.data -= torch.tensor([0.0, 1e6]) * (trainer.current_epoch == 0)

    trainer = easy.fit(Tilt(), use_ema=False)
    assert health_of(trainer, CollapseCallback).n_in_row == 0
    assert len([r for r in alarms(caplog) if "are said to be" in r.getMessage()]) == 1


def test_a_photo_of_val_select_without_finite_logits_is_named(easy, caplog):
    class Fault(Callback):
        row = None

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 1:
                batch["image"][2] = float("inf")
                self.row = int(batch["index"][2])

    fault = Fault()
    trainer = easy.fit(fault, epochs=1, use_ema=False)
    named = str(easy.datamodule.table.ids[fault.row])
    n = SPLITS["val_select"]
    assert [r.getMessage() for r in alarms(caplog)] == [
        f"Epoch 1: the logits of 1 of {n} photos of val_select are not finite: {named}."
    ]
    assert health_of(trainer, CollapseCallback).n_in_row == 0


def schedule(zero):
    """Replaces `warmup_cosine` by one whose rate is 0 in the steps for which `zero(step)` holds, counted from 0."""
    return lambda optimizer, total_steps, warmup: LambdaLR(optimizer, lambda step: float(not zero(step)))


def test_a_learning_rate_of_zero_inside_the_schedule(easy, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step in {0, 3, 4}))
    easy.fit(epochs=2)
    assert [r.getMessage() for r in alarms(caplog)] == [
        f"Step 4 of {2 * N_STEPS} has a learning rate of 0.",
        f"Epoch 1: of {N_STEPS} steps, 2 had a learning rate of 0 and 0 had gradients of 0 alone.",
    ]


def test_a_learning_rate_of_zero_at_both_ends_is_a_schedule(easy, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step in {0, N_STEPS - 1}))
    easy.fit(epochs=1, use_ema=False)
    assert not [r for r in alarms(caplog) if "learning rate" in r.getMessage()]


def test_an_epoch_without_a_learning_rate_stops_the_run(easy, monkeypatch):
    monkeypatch.setattr(module_file, "warmup_cosine", schedule(lambda step: step >= N_STEPS))
    with pytest.raises(WiringError, match=rf"learning rate.*\b0\b.*\b{N_STEPS} steps of epoch 2"):
        easy.fit(epochs=3)


def test_gradients_of_zero_stop_the_run(easy, caplog, monkeypatch):
    monkeypatch.setattr(module_file, "training_loss", lambda logits, *rest: logits.sum() * 0)
    with pytest.raises(WiringError, match=rf"gradient.*\b0\b.*\b{N_STEPS} steps of epoch 1"):
        easy.fit(epochs=1)
    assert "In step 1 every gradient is 0." in [r.getMessage() for r in alarms(caplog)]


def other_weights(model, *arguments, **options):
    """An optimizer that holds copies, as one does that was built before the network was put together."""
    return build_optimizer(nn.ParameterList([p.detach().clone() for p in model.parameters()]), *arguments, **options)


@pytest.mark.parametrize("fault", ["optimizer", "rate"])
def test_weights_that_stay_where_they_are_stop_the_run(easy, monkeypatch, fault):
    if fault == "optimizer":
        monkeypatch.setattr(module_file, "build_optimizer", other_weights)
    lr = 1e-30 if fault == "rate" else 0.01
    with pytest.raises(WiringError, match=rf"weight.*\b{N_STEPS} steps of epoch 1.*\b{N_STEPS}\b"):
        easy.fit(epochs=1, lr=lr, use_ema=False)
