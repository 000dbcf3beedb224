"""A signal finishes the step, saves and stops; the resumed run equals the uninterrupted one."""

import json
import multiprocessing
import os
import signal

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from roadwork.core.errors import RunStoppedError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.runs.run import LAST
from roadwork.training.callbacks.interruption_callback import InterruptionCallback
from roadwork.training.trainers.factory import prepare_trainer


class Signal(Callback):
    """Sends this process a signal before the `n`th step."""

    def __init__(self, number, n):
        self.number = number
        self.n = n

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step + 1 == self.n:
            self.n = 0
            os.kill(os.getpid(), self.number)


@pytest.fixture
def config(tiny_config):
    """Makes the configuration of a tiny vision transformer with dropout."""

    def make(*overrides):
        cfg = tiny_config(
            "training.epochs=2", "training.deterministic=true", "training.checkpoint_minutes=0", *overrides
        )
        cfg.model.config = {
            "model_type": "vit",
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "patch_size": 8,
            "hidden_dropout_prob": 0.2,
        }
        return cfg

    return make


def fit(cfg, *callbacks, resume_from=None):
    datamodule = NATIXDataModule(cfg)
    trainer = prepare_trainer(datamodule, resume_from)
    trainer.callbacks += callbacks
    return trainer, trainer.fit(datamodule, resume_from)


def checkpoint(folder, name=LAST):
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def assert_same_end(folder, uninterrupted):
    for name in (LAST, "best.ckpt"):
        mine, theirs = checkpoint(folder, name), checkpoint(uninterrupted, name)
        for key in ("state_dict", "raw_state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=0)
    lines, expected = (
        [json.loads(line) | {"seconds": 0} for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (folder, uninterrupted)
    )
    assert lines == expected


@pytest.mark.parametrize(
    ("number", "n", "saved_at", "overrides"),
    [
        (signal.SIGTERM, 1, 1, ()),
        (signal.SIGINT, 5, 5, ()),
        (signal.SIGTERM, 9, 9, ()),  # the last step of an epoch: validation finishes first
        (signal.SIGTERM, 2, 2, ("training.accumulate=2",)),  # finishes the gradient accumulation first
    ],
)
def test_stops_after_the_step_and_resumes_identically(config, tmp_path, number, n, saved_at, overrides):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    uninterrupted = fit(config(f"output_dir={tmp_path / 'uninterrupted'}", *overrides))[1]
    cfg = config(f"output_dir={tmp_path / 'interrupted'}", *overrides)
    with pytest.raises(RunStoppedError, match="is saved") as stopped:
        fit(cfg, Signal(number, n))
    assert stopped.value.exit_code == 128 + number
    assert {each: signal.getsignal(each) for each in before} == before
    folder = (tmp_path / "interrupted" / cfg.experiment / "latest").resolve()
    assert checkpoint(folder)["global_step"] == saved_at
    fit(cfg, resume_from=folder)
    assert_same_end(folder, uninterrupted)


def test_saves_by_time_inside_an_epoch(config, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(InterruptionCallback, "_stop_if", lambda self, number: saved.append(self.path.exists()))
    fit(config(f"output_dir={tmp_path}", "training.checkpoint_minutes=0.00001", "training.epochs=1"))
    assert saved
    assert all(saved)  # from the first step on
    saved.clear()
    fit(config(f"output_dir={tmp_path}", "training.epochs=1"))
    assert not any(saved)


def test_random_draws_depend_only_on_the_step(config):
    drawn = {}

    class Draw(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.rand(batch_idx)

    for name, callbacks in (("plain", ()), ("disturbed", (Draw(),))):
        trainer, _ = fit(config("training.epochs=1"), *callbacks)
        drawn[name] = {key: value.clone() for key, value in trainer.module.model.state_dict().items()}
    torch.testing.assert_close(drawn["plain"], drawn["disturbed"], rtol=0, atol=0)


def _ignore_the_first(path):
    interruption = InterruptionCallback(path, 0)
    interruption.on_train_start(type("Trainer", (), {"global_step": 0}), None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert interruption.received == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)  # not reached


def test_second_signal_exits_at_once(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_ignore_the_first, args=(tmp_path / LAST,))
    process.start()
    process.join(30)
    assert process.exitcode == 143
