"""The bottleneck of a run, from given figures and from a slowed stage."""

from __future__ import annotations

import time

import pytest

from roadwork.data import datamodule as datamodule_module
from roadwork.data import dataset as dataset_module
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import FileImages
from roadwork.profiling.measure import COPY, PHOTOS, RAM, InputTimes, spread_ms
from roadwork.profiling.profile import _GROUPS, Environment, find_bottleneck, profile_training, suggest_settings
from roadwork.settings import Settings
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.module import RoadworkClassifier


def _times(read_s=0.01, decode_s=0.09, origin=PHOTOS):
    return InputTimes(1, {origin: 1}, spread_ms([read_s]), spread_ms([decode_s]), 1 / (read_s + decode_s))


STEP = {"transfer": 0.1, "augment": 0.2, "forward": 0.2, "backward": 0.3, "optimizer": 0.1, "callbacks": 0.1}


@pytest.mark.parametrize(
    ("wait_s", "images", "workers", "times", "bound_by"),
    [
        # one core loads 10 images/s; the step without its wait takes 1 s
        (3.2, 32, 0, _times(), "decoding"),  # alternating, and the wait is the largest part
        (0.3, 3, 0, _times(), "the network"),  # alternating, but the network (0.5 s) is larger
        (0.6, 16, 1, _times(), "decoding"),  # in parallel: the step waits
        (0.0, 32, 2, _times(), "decoding"),  # 20 against 32 images/s, hidden by a queue
        (0.0, 32, 8, _times(), "the network"),  # 40 images/s on 4 cores
        (3.2, 32, 0, _times(0.09, 0.01), "reading"),
        (3.2, 32, 0, _times(0.0, 0.1, COPY), "the resized copy"),
        (3.2, 32, 0, _times(0.0, 1e-6, RAM), "the loader"),
        (1.0, 32, 4, _times(0.0, 0.02), "the loader"),  # single images at 200 images/s do not explain the wait
    ],
)
def test_slower_side_is_the_bottleneck(wait_s, images, workers, times, bound_by):
    verdict = find_bottleneck(STEP | {"wait": wait_s}, images, times, workers, cores=4)
    assert verdict.bound_by == bound_by
    assert verdict.sentence.startswith(f"Bound by {bound_by}")
    assert verdict.step_images_per_s == pytest.approx(images)


def test_sentence_compares_loader_rate_with_step_rate():
    waiting = find_bottleneck(STEP | {"wait": 1.0}, 32, _times(0.0, 0.125), 2, cores=2)
    assert waiting.sentence == (
        "Bound by decoding: with 2 workers the loader delivers 16 images/s, the rest of the step could process 32."
    )
    hidden = find_bottleneck(STEP | {"wait": 0.0}, 32, _times(0.0, 0.125), 2, cores=2)
    assert hidden.sentence == waiting.sentence + " Queued batches hid this in the measured steps."
    network = find_bottleneck(STEP, 32, _times(0.0, 0.001), 2, cores=2)
    assert network.sentence == "Bound by the network (forward and backward, 50% of a step): 32 images/s."


@pytest.mark.parametrize(
    ("target", "name", "overrides", "bound_by"),
    [
        (dataset_module, "decode_image", ("data.cache=none", "data.dataloader.num_workers=0"), "decoding"),
        (dataset_module, "decode_image", ("data.cache=none", "data.dataloader.num_workers=2"), "decoding"),
        (FileImages, "read", ("data.cache=none", "data.dataloader.num_workers=0"), "reading"),
        (datamodule_module, "collate", ("data.cache=ram",), "the loader"),
        (NATIXDataModule, "on_before_batch_transfer", ("data.cache=ram",), "the transfer"),
        (NATIXDataModule, "augment", ("data.cache=ram",), "augmentation"),
        (RoadworkClassifier, "forward", ("data.cache=ram",), "the network"),
        (RoadworkClassifier, "backward", ("data.cache=ram",), "the network"),
        (RoadworkClassifier, "lr_scheduler_step", ("data.cache=ram",), "the optimizer"),
        (MCCCallback, "on_train_batch_end", ("data.cache=ram",), "callbacks"),
    ],
)
def test_slow_stage_is_reported_as_the_bottleneck(target, name, overrides, bound_by, tiny_config, monkeypatch):
    function, is_per_image = getattr(target, name), bound_by in ("decoding", "reading")

    def slow(*args, **kwargs):
        time.sleep(0.012 if is_per_image else 0.1)
        return function(*args, **kwargs)

    datamodule = NATIXDataModule(tiny_config("data.augmentation.train.mode=none", *overrides))
    datamodule.setup("fit")
    monkeypatch.setattr(target, name, slow)
    result = profile_training(datamodule, 3)
    assert result.verdict.bound_by == bound_by
    assert sum(stage.ms.mean for stage in result.stages) == pytest.approx(result.step_ms.mean)
    assert sum(stage.share for stage in result.stages) == pytest.approx(1)


def _here(**changes):
    given = {"device": "cpu", "precision": "32-true", "workers": 2, "cores": 2, "threads": 2, "origin": PHOTOS}
    return Environment(**given | changes)


def _advice(bound_by, here, **training):
    settings = Settings()
    for key, value in training.items():
        setattr(settings.training, key, value)
    return " ".join(suggest_settings(bound_by, settings, here))


def test_advice_skips_options_already_set():
    assert "roadwork prepare" in _advice("decoding", _here())
    assert "roadwork prepare" not in _advice("the resized copy", _here(origin=COPY))
    assert "num_workers=8" in _advice("decoding", _here(cores=8))
    assert "num_workers" not in _advice("decoding", _here())
    on_gpu = {"device": "cuda:0"}
    assert "bf16-mixed" in _advice("the network", _here(**on_gpu))
    assert "bf16-mixed" not in _advice("the network", _here(**on_gpu, precision="bf16-mixed"))
    assert "training.compile" not in _advice("the network", _here(), compile=True)
    assert "OMP_NUM_THREADS=2" in _advice("the network", _here(threads=1))
    assert "OMP_NUM_THREADS" not in _advice("the network", _here(**on_gpu, threads=1))
    assert "use_ema" not in _advice("callbacks", _here(), use_ema=False)


@pytest.mark.parametrize(
    "bound_by",
    ["reading", "decoding", "the resized copy", "the loader", *_GROUPS],
)
def test_each_bottleneck_has_advice(bound_by):
    assert suggest_settings(bound_by, Settings(), _here(cores=2))
