"""The stages of a step in Lightning's real loop, with a fake clock."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector

from roadwork.data import datamodule as datamodule_module
from roadwork.data.datamodule import NATIXDataModule
from roadwork.profiling import measure as stage_clock
from roadwork.profiling.measure import STAGES, WARMUP_STEPS, StageClock, time_steps
from roadwork.training.callbacks.ema_callback import EMACallback
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers.factory import prepare_trainer

PLAIN = "data.augmentation.train.mode=none"
FETCH = "[_TrainingEpochLoop].train_dataloader_next"


class HandClock:
    """A clock that advances only when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def costs(self, seconds, function):
        """`function`, which now takes this many seconds on the clock."""

        def slowed(*args, **kwargs):
            self.now += seconds
            return function(*args, **kwargs)

        return slowed


@pytest.fixture
def hand_clock(monkeypatch):
    clock = HandClock()
    monkeypatch.setattr(stage_clock, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def test_each_second_of_the_loop_counts_for_its_stage(hand_clock, tiny_config, monkeypatch):
    costs = [
        (datamodule_module, "collate", 1, "wait"),
        (NATIXDataModule, "on_before_batch_transfer", 2, "transfer"),
        (NATIXDataModule, "augment", 3, "augment"),
        (NATIXDataModule, "normalise", 4, "augment"),
        (RoadworkClassifier, "forward", 50, "forward"),
        (RoadworkClassifier, "backward", 60, "backward"),
        (RoadworkClassifier, "configure_gradient_clipping", 7, "optimizer"),
        (RoadworkClassifier, "optimizer_zero_grad", 8, "optimizer"),
        (RoadworkClassifier, "lr_scheduler_step", 9, "optimizer"),
        (EMACallback, "update", 11, "callbacks"),
        (MCCCallback, "on_train_batch_end", 12, "callbacks"),
        (_LoggerConnector, "on_batch_end", 13, "other"),
    ]
    expected = dict.fromkeys(STAGES, 0)
    for target, name, seconds, stage in costs:
        monkeypatch.setattr(target, name, hand_clock.costs(seconds, getattr(target, name)))
        expected[stage] += seconds
    datamodule = NATIXDataModule(tiny_config(PLAIN))
    trainer = prepare_trainer(datamodule)
    datamodule.setup("fit")
    timed = time_steps(datamodule, trainer, 9, None)
    assert timed.batches_per_epoch == 9  # so the steps include three ends of epochs
    assert timed.n_warmup == WARMUP_STEPS
    assert timed.seconds == [expected] * 9
    assert len(timed.n_images) == 9


def test_accumulation_skips_optimizer_steps(hand_clock, tiny_config, monkeypatch):
    clip = RoadworkClassifier.configure_gradient_clipping
    monkeypatch.setattr(RoadworkClassifier, "configure_gradient_clipping", hand_clock.costs(5, clip))
    datamodule = NATIXDataModule(tiny_config(PLAIN, "training.accumulate=2"))
    trainer = prepare_trainer(datamodule)
    datamodule.setup("fit")
    timed = time_steps(datamodule, trainer, 4, None)
    assert [step.get("optimizer", 0) for step in timed.seconds] == [5, 0, 5, 0]


def test_time_between_epochs_belongs_to_no_step(hand_clock):
    clock = StageClock(lambda: None)
    for _ in range(2):
        with clock.profile(FETCH):
            hand_clock.now += 1
        with clock.profile("[Callback]X.on_train_epoch_end"):
            hand_clock.now += 100
    assert [dict(step) for step in clock.steps] == [{"wait": 1, "other": 0}] * 2


def test_stage_waits_for_the_device(hand_clock):
    """Queued work of the device counts for the stage that queued it."""
    queued = []

    def synchronise():
        hand_clock.now += sum(queued)
        queued.clear()

    clock = StageClock(synchronise)
    clock.start(FETCH)
    clock.stop(FETCH)
    with clock.profile("[LightningModule]M.optimizer_step"):
        with clock.profile("[Strategy]S.training_step"):
            queued.append(30)
        with clock.profile("[Strategy]S.backward"):
            queued.append(70)
        queued.append(5)
    assert {stage: s for stage, s in clock.steps[0].items() if s} == {"forward": 30, "backward": 70, "optimizer": 5}
