"""Profiles a configuration: stage times, bottleneck, and settings to try."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from joblib import cpu_count

from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.profiling.measure import (
    COPY,
    OTHER,
    PHOTOS,
    RAM,
    STAGES,
    InputTimes,
    Spread,
    TimedSteps,
    spread_ms,
    time_input,
    time_steps,
)
from roadwork.settings import Settings
from roadwork.training.linear_probe import why_no_features
from roadwork.training.trainers.factory import prepare_trainer

# With workers, the loader runs in parallel to the step, which waits only if the loader is slower. A wait below this
# share of the step is treated as noise.
WAIT_SHARE = 0.2

# The smallest share of the loader's time that reading and decoding must explain to be named as the bottleneck.
EXPLAINED_SHARE = 0.5
_GROUPS = {
    "the transfer": ("transfer",),
    "augmentation": ("augment",),
    "the network": ("forward", "backward"),
    "the optimizer": ("optimizer",),
    "callbacks": ("callbacks",),
    "the loop itself": (OTHER,),
}
_LARGER_BATCH = "data.dataloader.batch_size=N: a larger batch spreads the fixed cost of a step over more images"


@dataclass(frozen=True)
class Verdict:
    """The bottleneck of a run.

    Attributes:
        bound_by: "reading", "decoding", "the resized copy" or "the loader"; else "the transfer", "augmentation", "the
            network", "the optimizer", "callbacks" or "the loop itself".
        sentence: the same with figures.
        loader_images_per_s: images per second that the workers can read and decode, with one core each.
        step_images_per_s: images per second that the rest of the step can process without waiting.
    """

    bound_by: str
    sentence: str
    loader_images_per_s: float
    step_images_per_s: float


def find_bottleneck(
    mean_s: dict[str, float], images_per_step: float, times: InputTimes, workers: int, cores: int
) -> Verdict:
    """Compares the loader's throughput with that of the rest of the step.

    Without workers they alternate, and the larger part of the step is the bottleneck. With workers they run in
    parallel, and the slower one is the bottleneck, even if the step does not wait yet: batches that were queued
    during the first steps can hide a slow loader.

    Args:
        mean_s: mean seconds of each stage.
        images_per_step: mean images per step.
        times: loading times of single images.
        workers: number of loader processes.
        cores: number of cores that they share.
    """
    step_s = sum(mean_s.values())
    wait_s = mean_s.get("wait", 0.0)
    loader_per_s = times.images_per_s * max(1, min(workers, cores))
    rest_per_s = images_per_step / max(step_s - wait_s, 1e-9)
    groups = {name: sum(mean_s.get(stage, 0.0) for stage in stages) for name, stages in _GROUPS.items()}
    largest = max(groups, key=lambda name: groups[name])
    waits = wait_s >= WAIT_SHARE * step_s if workers else wait_s >= groups[largest]
    is_hidden = workers > 0 and not waits and loader_per_s < rest_per_s
    if not waits and not is_hidden:
        sentence = _bound_by_step(largest, groups[largest] / step_s, images_per_step / step_s)
        return Verdict(largest, sentence, loader_per_s, rest_per_s)
    loader_s = step_s if workers else wait_s
    is_explained = is_hidden or images_per_step / loader_per_s >= EXPLAINED_SHARE * loader_s
    part = _input_part(times) if is_explained else "the loader"
    given = loader_per_s if is_hidden else images_per_step / loader_s
    sentence = (
        f"Bound by {part}: {_of_workers(workers)} the loader delivers {rate(given)} images/s, "
        f"the rest of the step could process {rate(rest_per_s)}."
    )
    if is_hidden:
        sentence += " Queued batches hid this in the measured steps."
    elif part == "the loader":
        sentence += " Reading and decoding explain less than half of the time. "
        sentence += (
            "The rest is collating and sending batches, or workers and network compete for the cores."
            if workers
            else "The rest is collating batches in the training process."
        )
    return Verdict(part, sentence, loader_per_s, rest_per_s)


def _bound_by_step(part: str, share: float, images_per_s: float) -> str:
    named = "the network (forward and backward" if part == "the network" else f"{part} ("
    separator = ", " if part == "the network" else ""
    return f"Bound by {named}{separator}{share:.0%} of a step): {rate(images_per_s)} images/s."


def _input_part(times: InputTimes) -> str:
    if times.origin == PHOTOS:
        return "reading" if times.read_ms.mean > times.decode_ms.mean else "decoding"
    return {COPY: "the resized copy", RAM: "the loader"}[times.origin]


def _of_workers(workers: int) -> str:
    return {0: "without workers", 1: "with 1 worker"}.get(workers, f"with {workers} workers")


def rate(images_per_s: float) -> str:
    """Images per second, formatted."""
    return f"{images_per_s:,.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"


@dataclass(frozen=True)
class Environment:
    """The machine and settings of a profile.

    Attributes:
        device: torch's name of the device, such as cpu or cuda:0.
        precision: Lightning's name of the precision.
        workers: number of loader processes.
        cores: number of cores that this process may use.
        threads: number of torch's CPU threads.
        origin: the origin of most images.
    """

    device: str
    precision: str
    workers: int
    cores: int
    threads: int
    origin: str

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


def suggest_settings(bound_by: str, settings: Settings, here: Environment) -> list[str]:
    """Settings that may remove the bottleneck, the most promising first."""
    if bound_by in ("reading", "decoding", "the resized copy", "the loader"):
        return _for_input(bound_by, settings, here)
    if bound_by == "the network":
        return _for_network(settings, here)
    mode = settings.data.augmentation.train.mode
    elsewhere = {
        "the transfer": ["data.dataloader.pin_memory=true"] if settings.data.dataloader.pin_memory is False else [],
        "augmentation": [
            f"data.augmentation.train.mode=none shows the cost of {mode}; check its effect on accuracy",
            *_for_cpu(here),
        ],
        "the optimizer": [
            *(["training.fused_optimizer=true"] if settings.training.fused_optimizer is False else []),
            f"training.accumulate={2 * settings.training.accumulate}: fewer optimizer steps",
        ],
        "callbacks": ["training.use_ema=false shows the cost of EMA"] if settings.training.use_ema else [],
        "the loop itself": ["--trace FILE shows each operation on a timeline"],
    }
    return [*elsewhere[bound_by], _LARGER_BATCH]


def _for_input(bound_by: str, settings: Settings, here: Environment) -> list[str]:
    data, tries = settings.data, []
    if here.origin == PHOTOS and bound_by != "the loader":
        copies = "`roadwork prepare` makes a resized copy once, which training then reads automatically"
        tries.append(copies if data.prepared.use != "never" else f"data.prepared.use=auto: {copies}")
    if here.origin != RAM and data.cache == "none":
        tries.append("data.cache=auto: keeps the images in RAM if they fit")
    if here.workers < here.cores:
        tries.append(f"data.dataloader.num_workers={here.cores}: one worker per core")
    elif bound_by == "reading":
        tries.append(f"data.dataloader.num_workers={2 * here.cores}: more parallel reads; or a local disk")
    elif bound_by == "the loader":
        tries.append(f"data.dataloader.prefetch_factor={2 * data.dataloader.prefetch_factor}: more queued batches")
    return tries or ["more cores, or a smaller data.img_size"]


def _for_network(settings: Settings, here: Environment) -> list[str]:
    training, tries = settings.training, _for_cpu(here)
    if not here.is_cpu and here.precision == "32-true":
        tries.append("training.precision=bf16-mixed, if the device supports it")
    if training.gradient_checkpointing:
        tries.append("training.gradient_checkpointing=false, if the memory allows")
    if not training.compile:
        tries.append("training.compile=true: fewer, larger kernels after compilation")
    if settings.model.attention == "eager":
        tries.append("model.attention=auto")
    if not training.channels_last:
        tries.append("training.channels_last=true, which is faster for convolutions")
    if not here.is_cpu:
        tries.append("data.dataloader.batch_size=auto: the largest batch that fits")
    if settings.model.pretrained and training.adapter == "none" and not training.freeze_backbone:
        frozen = "training.freeze_backbone=true data.augmentation.train.mode=none"
        tries.append(f"{frozen}: trains only the head, on features that are computed once")
    return [*tries, "a smaller data.img_size or model; check the effect on accuracy"]


def _for_cpu(here: Environment) -> list[str]:
    if not here.is_cpu:
        return []
    threads = f"OMP_NUM_THREADS={here.cores}: torch uses {here.threads} of {here.cores} cores"
    return [*([threads] if here.threads < here.cores else []), "a GPU"]


@dataclass(frozen=True)
class StageTime:
    """One stage of a step: its milliseconds, and its share of the total time, 0 to 1."""

    stage: str
    ms: Spread
    share: float


@dataclass(frozen=True)
class TrainingProfile:
    """The profile of a training step.

    Attributes:
        model, batch_size, img_size, compile: as configured.
        here: the machine and settings.
        steps, warmup_steps: number of measured steps, and of excluded steps before them.
        stages: in the order of a step; their mean times add up to the step's mean.
        step_ms: time from one request for a batch to the next.
        images_per_s: throughput of the measured steps.
        input: loading times of single images.
        verdict: the bottleneck.
        options: settings to try.
        batches_per_epoch, epoch_seconds: of one training epoch without validation, at the bottleneck's throughput.
        notes: remarks on the measurement.
    """

    model: str
    batch_size: int
    img_size: int
    compile: bool
    here: Environment
    steps: int
    warmup_steps: int
    stages: list[StageTime]
    step_ms: Spread
    images_per_s: float
    input: InputTimes
    verdict: Verdict
    options: list[str]
    batches_per_epoch: int
    epoch_seconds: float
    notes: list[str]


def profile_training(datamodule: NATIXDataModule, n_steps: int, trace: Path | None = None) -> TrainingProfile:
    """Times single images, then steps of the real training loop; writes no file but the trace.

    Args:
        datamodule: its configuration is profiled.
        n_steps: number of batches to measure, at least 1.
        trace: file for a Chrome trace of two further steps.

    Raises:
        ConfigError: the configuration trains on cached features, not on images.
        RoadworkError: the configuration cannot be trained.
    """
    settings = datamodule.settings
    trainer = prepare_trainer(datamodule)
    datamodule.setup("fit")
    if settings.training.freeze_backbone and why_no_features(trainer.module.model, datamodule) is None:
        raise ConfigError(
            "With training.freeze_backbone=true and data.augmentation.train.mode=none, the head trains on cached "
            "features in seconds, so there is no step over images to profile. Set another augmentation, or "
            "training.freeze_backbone=false."
        )
    times = time_input(datamodule, settings.training.seed)
    return _summarise(settings, times, time_steps(datamodule, trainer, n_steps, trace))


def _summarise(settings: Settings, times: InputTimes, timed: TimedSteps) -> TrainingProfile:
    here = Environment(timed.device, timed.precision, timed.workers, cpu_count(), torch.get_num_threads(), times.origin)
    per_step = [sum(step.values()) for step in timed.seconds]
    step_s = sum(per_step) / len(per_step)
    stages = []
    for name in STAGES:
        seconds = [step.get(name, 0.0) for step in timed.seconds]
        stages.append(StageTime(name, spread_ms(seconds), sum(seconds) / sum(per_step)))
    mean_s = {stage.stage: stage.ms.mean / 1000 for stage in stages}
    images_per_step = sum(timed.n_images) / len(timed.n_images)
    verdict = find_bottleneck(mean_s, images_per_step, times, timed.workers, here.cores)
    pace_s = max(step_s, images_per_step / verdict.loader_images_per_s) if timed.workers else step_s
    return TrainingProfile(
        model=settings.model.name,
        batch_size=max(timed.n_images),
        img_size=settings.data.img_size,
        compile=settings.training.compile,
        here=here,
        steps=len(per_step),
        warmup_steps=timed.n_warmup,
        stages=stages,
        step_ms=spread_ms(per_step),
        images_per_s=images_per_step / step_s,
        input=times,
        verdict=verdict,
        options=suggest_settings(verdict.bound_by, settings, here),
        batches_per_epoch=timed.batches_per_epoch,
        epoch_seconds=pace_s * timed.batches_per_epoch,
        notes=_notes(settings, here, times, timed),
    )


def _notes(settings: Settings, here: Environment, times: InputTimes, timed: TimedSteps) -> list[str]:
    notes = []
    if timed.n_warmup + len(timed.seconds) > timed.batches_per_epoch:
        notes.append(
            f"An epoch has {timed.batches_per_epoch} batches, fewer than were run. It was repeated, and the loader "
            "restarted at each epoch."
        )
    if not here.is_cpu:
        notes.append("The profiler waits for each stage to finish. Training overlaps them, so it is somewhat faster.")
    if len(times.origins) > 1:
        shares = ", ".join(f"{count} from {origin}" for origin, count in Counter(times.origins).most_common())
        notes.append(f"Images have several origins: {shares} of {times.n_images}.")
    if settings.training.accumulate > 1:
        notes.append(f"A step here is one batch; the optimizer steps every {settings.training.accumulate} batches.")
    return notes
