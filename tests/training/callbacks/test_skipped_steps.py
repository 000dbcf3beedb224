"""Non-finite steps are skipped, counted and named; too many of them stop the run."""

import json
import logging
import math
import os
import signal

import lightning.pytorch as L
import pytest
import torch
from fixtures.tiny_fits import N_STEPS, NanInBatch, differing, everything, monitor_of
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision

from roadwork.core.errors import DivergedError, RoadworkError, RunStoppedError
from roadwork.training.callbacks.training_monitor import SKIPPED_FILE, TrainingMonitorCallback, name_some
from roadwork.training.checkpoints import non_finite_names
from roadwork.training.module import spread_non_finite


class Watch(Callback):
    """Records which tensors each optimizer step changed. Registered after EMA and before the monitor."""

    def __init__(self):
        self.changed, self.before, self.ema = [], None, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = self.before or everything(trainer, pl_module, self.ema)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > len(self.changed):
            self.changed.append(differing(self.before, everything(trainer, pl_module, self.ema)))
            self.before = None


def watch(watcher):
    def prepare(trainer):
        watcher.ema = trainer.ema_callback

    return prepare


def messages(caplog, level=logging.WARNING):
    return [r.getMessage() for r in caplog.records if r.levelno >= level and r.name.startswith("roadwork.training")]


@pytest.mark.parametrize(
    ("training", "bad_batch", "bad_step"),
    [
        ({}, 2, 2),
        ({"accumulate": 2}, 2, 1),  # the first of the two batches of the second step
        ({"freeze_backbone": True, "fused_optimizer": False}, 3, 3),
    ],
    ids=["image", "accumulated", "feature"],
)
def test_step_with_nan_is_skipped_completely(fits, caplog, training, bad_batch, bad_step):
    watcher = Watch()
    fault = NanInBatch(lambda epoch, batch: batch == bad_batch)
    with caplog.at_level(logging.INFO, "roadwork"):
        trainer = fits.fit(fault, watcher, prepare=watch(watcher), epochs=1, **training)
    unchanged = [step for step, names in enumerate(watcher.changed) if not names]
    assert unchanged == [bad_step]
    assert all(
        any(kind in name for name in names) for names in watcher.changed if names for kind in ("model.", "opt", "av")
    )
    assert monitor_of(trainer).n_skipped == 1
    (line,) = [json.loads(line) for line in (trainer.run_folder / SKIPPED_FILE).read_text().splitlines()]
    broken = str(trainer.trainer.datamodule.table.ids[fault.rows[0]])
    assert (line["epoch"], line["step"], line["not_finite"]) == (0, bad_step + 1, [broken])
    assert len(line["ids"]) == 8
    assert broken in line["ids"]
    step, epoch = messages(caplog)
    assert f"Epoch 1, step {bad_step + 1} " in step
    assert f"not finite: {broken}." in step
    assert f"Epoch 1: 1 of {len(watcher.changed)} steps" in epoch
    figures = json.loads((trainer.run_folder / "metrics.jsonl").read_text())
    assert math.isfinite(figures["train/loss"])
    assert figures["step"] == len(watcher.changed)  # the schedule's length is unchanged


def test_infinite_loss_with_finite_gradients_is_skipped(fits, caplog, monkeypatch):
    """Only the loss shows it."""

    class Infinite(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            monkeypatch.setattr("roadwork.training.module.training_loss", losses[batch_idx == 1])

    from roadwork.training.module import training_loss

    losses = (training_loss, lambda *arguments: training_loss(*arguments) + math.inf)
    watcher = Watch()
    trainer = fits.fit(Infinite(), watcher, prepare=watch(watcher), epochs=1)
    assert [step for step, names in enumerate(watcher.changed) if not names] == [1]
    assert monitor_of(trainer).n_skipped == 1


def test_finite_losses_are_unchanged():
    weight = torch.tensor([0.3, -0.7], requires_grad=True)
    (plain,) = torch.autograd.grad((weight**3).sum(), weight)
    (spread,) = torch.autograd.grad(spread_non_finite((weight**3).sum()), weight)
    assert torch.equal(plain, spread)
    (spoilt,) = torch.autograd.grad(spread_non_finite(weight.sum() + math.inf), weight)
    assert spoilt.isnan().all()


def test_too_many_bad_steps_in_a_row_stop_the_run(fits, caplog):
    fault = NanInBatch(lambda epoch, batch: epoch == 1 and batch >= 1)
    saved = {}

    class Saved(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            saved.update({path: path.read_bytes() for path in fits.latest().rglob("*.ckpt")})

    with pytest.raises(DivergedError) as caught:
        fits.fit(Saved(), fault, epochs=3, max_skipped_steps=2)
    assert isinstance(caught.value, RoadworkError)  # one message, exit code 1
    message = str(caught.value)
    assert "(training.max_skipped_steps is 2)" in message
    assert len(fault.rows) == 3
    for row in fault.rows:
        assert f"photo_{row:02d}.png" in message
    (last,) = [path for path in saved if path.name == "last.ckpt"]
    assert str(last) in message
    for word in ("training.lr (it is 0.01)", "training.precision", SKIPPED_FILE):
        assert word in message
    for path, content in saved.items():
        assert path.read_bytes() == content
    lines = [json.loads(line) for line in (last.parents[1] / SKIPPED_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [N_STEPS + 2, N_STEPS + 3, N_STEPS + 4]


@pytest.mark.slow
def test_separated_bad_steps_do_not_stop_the_run(fits):
    trainer = fits.fit(NanInBatch(lambda epoch, batch: batch in {1, 3}), max_skipped_steps=1)
    assert monitor_of(trainer).n_skipped == 4
    assert trainer.mcc_callback.best_mcc > -1


def test_exploding_learning_rate_stops_the_run(fits):
    with pytest.raises(DivergedError, match=r"not finite") as caught:
        fits.fit(epochs=4, lr=1e38, warmup=0.0, max_skipped_steps=3)
    assert "training.lr (it is 1e+38)" in str(caught.value)


@pytest.mark.parametrize("where", ["weight", "average"])
def test_no_checkpoint_has_non_finite_weights(fits, where):
    class Spoil(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                kept.update({path: path.read_bytes() for path in fits.latest().rglob("*.ckpt")})
                spoilt = pl_module.model.get_parameter(name) if where == "weight" else ema[0].shadow[name]
                with torch.no_grad():
                    spoilt.view(-1)[0] = math.inf

    kept, ema, name = {}, [], "classifier.1.weight"
    with pytest.raises(DivergedError, match=r"checkpoint.*step 10\b.*\b1 tensors.*classifier"):
        fits.fit(Spoil(), prepare=lambda trainer: ema.append(trainer.ema_callback))
    assert {path.name for path in kept} >= {"last.ckpt", "best.ckpt"}
    for path, content in kept.items():
        assert path.read_bytes() == content


def test_weight_that_starts_as_nan_is_named(fits):
    def spoil(trainer):
        with torch.no_grad():
            trainer.module.model.classifier[1].weight[0, 0] = math.nan

    with pytest.raises(DivergedError, match=r"[Nn]o.*finite.*model\.classifier\.1\.weight"):
        fits.fit(prepare=spoil, max_skipped_steps=2)


class Sigterm(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == N_STEPS + 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_run_with_skipped_steps_resumes_bit_identically(fits):
    def fault():
        return NanInBatch(lambda epoch, batch: batch in {1, 2, 3})

    uninterrupted = fits.fit(fault())
    with pytest.raises(RunStoppedError):
        fits.fit(fault(), Sigterm())
    stopped = fits.latest()
    assert stopped != uninterrupted.run_folder
    resumed = fits.fit(fault(), resume_from=stopped)
    assert monitor_of(resumed).state_dict() == monitor_of(uninterrupted).state_dict()
    assert monitor_of(uninterrupted).n_skipped == 6
    left, right = (
        everything(trainer.trainer, trainer.module, trainer.ema_callback) for trainer in (uninterrupted, resumed)
    )
    assert len(left) > 20
    assert differing(left, right) == []


def fit_in_float16(fits, scale, *callbacks):
    trainer = fits.trainer(fused_optimizer=None)
    monitor = TrainingMonitorCallback(trainer.settings.training, fits.folder)
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))
    L.Trainer(
        max_epochs=1, accelerator="cpu", plugins=[plugin], logger=False,
        callbacks=[*trainer.callbacks, *callbacks, monitor],
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, num_sanity_val_steps=0,
    ).fit(trainer.module, datamodule=fits.datamodule)  # fmt: skip
    return trainer, monitor


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # where the scaler skips the first step
@pytest.mark.parametrize("has_fault", [False, True])
def test_float16_scale_search_is_not_counted(fits, caplog, has_fault):
    """The scaler handles a scale that overflows; the monitor handles a batch with NaN."""
    fault = NanInBatch(lambda epoch, batch: has_fault and batch == 4)
    watcher = Watch()
    trainer, monitor = fit_in_float16(fits, 2.0**36, fault, watcher)
    overflown = [
        step for step, names in enumerate(watcher.changed) if not any(n.startswith("optimizer") for n in names)
    ]
    assert overflown
    assert overflown[0] == 0
    assert monitor.n_skipped == int(has_fault)
    assert (len(messages(caplog)) > 0) == has_fault
    assert trainer.ema_callback.n_updates == N_STEPS - len({*overflown, *([4] if has_fault else [])})


def test_name_lists_are_shortened():
    tensors = {"a": torch.ones(2), "b": torch.tensor([1.0, math.inf]), "n": torch.ones(1, dtype=torch.int64)}
    assert non_finite_names(tensors) == ["b"]
    assert non_finite_names({}) == []
    assert name_some(["x", "y", "x"]) == "x, y"
    assert name_some(map(str, range(10))) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"
