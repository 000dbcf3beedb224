"""The profile of a configuration: times, bottleneck, advice."""

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

# With workers the loader runs beside the step, so the step waits only where the loader is the slower one. Below this
# share of the step a wait is taken for chance.
WAIT_SHARE = 0.2

# What reading and decoding must explain of the time that the loader takes, to be blamed for it.
EXPLAINED_SHARE = 0.5
_GROUPS = {
    "the transfer": ("transfer",),
    "augmentation": ("augment",),
    "the network": ("forward", "backward"),
    "the optimizer": ("optimizer",),
    "callbacks": ("callbacks",),
    "the loop itself": (OTHER,),
}
_LARGER_BATCH = "data.dataloader.batch_size=N: a larger batch shares what a step costs among more images"


@dataclass(frozen=True)
class Verdict:
    """The bottleneck of a run.

    Attributes:
        bound_by: "reading", "decoding", "the resized copy" or "the loader"; else "the transfer", "augmentation", "the
            network", "the optimizer", "callbacks" or "the loop itself".
        sentence: says so with figures.
        loader_images_per_s: what the workers could read and decode, if each had a core to itself.
        step_images_per_s: what the rest of the step could take, if it never waited.
    """

    bound_by: str
    sentence: str
    loader_images_per_s: float
    step_images_per_s: float


def find_bottleneck(
    mean_s: dict[str, float], images_per_step: float, times: InputTimes, workers: int, cores: int
) -> Verdict:
    """Compares what the loader gives with what the rest of the step takes.

    Without workers the two take turns, and the larger part of the step bounds it. With workers the slower of the two
    bounds it, whatever its share: a queue that filled during the first steps can hide a slow loader for a while.

    Args:
        mean_s: seconds of each stage in a mean step.
        images_per_step: mean.
        times: of single images.
        workers: processes of the loader.
        cores: that they share.
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
        f"Bound by {part}: {_of_workers(workers)} the loader gives {rate(given)} images/s, "
        f"the rest of the step could take {rate(rest_per_s)}."
    )
    if is_hidden:
        sentence += " In these few steps the loader's queue still hid it."
    elif part == "the loader":
        sentence += " Reading and decoding explain less than half of it: batches are put together and sent over, or "
        sentence += "workers and network share the cores." if workers else "in the training process itself."
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
    """Images per second as text."""
    return f"{images_per_s:,.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"


@dataclass(frozen=True)
class Environment:
    """The machine and settings that a profile ran with.

    Attributes:
        device: torch's name of it, such as cpu or cuda:0.
        precision: Lightning's name of it.
        workers: processes of the loader.
        cores: that this process may use.
        threads: that torch computes with on a CPU.
        origin: where most of the images came from.
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
    """Settings that could relieve the bottleneck, the most promising first."""
    if bound_by in ("reading", "decoding", "the resized copy", "the loader"):
        return _for_input(bound_by, settings, here)
    if bound_by == "the network":
        return _for_network(settings, here)
    mode = settings.data.augmentation.train.mode
    elsewhere = {
        "the transfer": ["data.dataloader.pin_memory=true"] if settings.data.dataloader.pin_memory is False else [],
        "augmentation": [
            f"data.augmentation.train.mode=none shows what {mode} costs; its strength is a question of accuracy first",
            *_for_cpu(here),
        ],
        "the optimizer": [
            *(["training.fused_optimizer=true"] if settings.training.fused_optimizer is False else []),
            f"training.accumulate={2 * settings.training.accumulate}: fewer optimizer steps",
        ],
        "callbacks": ["training.use_ema=false shows what averaging costs"] if settings.training.use_ema else [],
        "the loop itself": ["--trace FILE shows what runs when"],
    }
    return [*elsewhere[bound_by], _LARGER_BATCH]


def _for_input(bound_by: str, settings: Settings, here: Environment) -> list[str]:
    data, tries = settings.data, []
    if here.origin == PHOTOS and bound_by != "the loader":
        copies = "`roadwork prepare` makes a resized copy once, which training then reads by itself"
        tries.append(copies if data.prepared.use != "never" else f"data.prepared.use=auto: {copies}")
    if here.origin != RAM and data.cache == "none":
        tries.append("data.cache=auto: images are held in RAM where they fit")
    if here.workers < here.cores:
        tries.append(f"data.dataloader.num_workers={here.cores}: a process a core reads ahead")
    elif bound_by == "reading":
        tries.append(f"data.dataloader.num_workers={2 * here.cores}: more reads at once; a local disk, if this is none")
    elif bound_by == "the loader":
        tries.append(f"data.dataloader.prefetch_factor={2 * data.dataloader.prefetch_factor}: a longer queue")
    return tries or ["more cores, or a smaller data.img_size"]


def _for_network(settings: Settings, here: Environment) -> list[str]:
    training, tries = settings.training, _for_cpu(here)
    if not here.is_cpu and here.precision == "32-true":
        tries.append("training.precision=bf16-mixed, where the device has it")
    if training.gradient_checkpointing:
        tries.append("training.gradient_checkpointing=false, if the memory allows")
    if not training.compile:
        tries.append("training.compile=true: fewer, larger kernels, once they are compiled")
    if settings.model.attention == "eager":
        tries.append("model.attention=auto")
    if not training.channels_last:
        tries.append("training.channels_last=true, which convolutions want")
    if not here.is_cpu:
        tries.append("data.dataloader.batch_size=auto: the largest that fits")
    if settings.model.pretrained and training.adapter == "none" and not training.freeze_backbone:
        frozen = "training.freeze_backbone=true data.augmentation.train.mode=none"
        tries.append(f"{frozen}: the head alone, on features that are computed once")
    return [*tries, "a smaller data.img_size or model: a question of accuracy first"]


def _for_cpu(here: Environment) -> list[str]:
    if not here.is_cpu:
        return []
    threads = f"OMP_NUM_THREADS={here.cores}: torch computes with {here.threads} of {here.cores} cores"
    return [*([threads] if here.threads < here.cores else []), "a GPU"]


@dataclass(frozen=True)
class StageTime:
    """One stage of a step: milliseconds, and share of the total time, 0 to 1."""

    stage: str
    ms: Spread
    share: float


@dataclass(frozen=True)
class TrainingProfile:
    """Where a training step's time goes.

    Attributes:
        model, batch_size, img_size, compile: as configured.
        here: the machine, and where the images came from.
        steps, warmup_steps: measured, and left out before them.
        stages: in the order of a step; their mean times add up to that of the step.
        step_ms: from one batch's being asked for to the next one's.
        images_per_s: of the steps measured.
        input: single images, by themselves.
        verdict: what bounds the run.
        options: what to try.
        batches_per_epoch, epoch_seconds: of training, without validation, at the pace that the bound allows.
        notes: what else is to be known.
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
    """Times single images, then steps of the real training loop; only the trace file is kept.

    Args:
        datamodule: of the configuration that is asked about.
        n_steps: batches to measure, at least 1.
        trace: a file for a Chrome trace of two further steps.

    Raises:
        ConfigError: the configuration trains on kept features, not on images.
        RoadworkError: it cannot be trained.
    """
    settings = datamodule.settings
    trainer = prepare_trainer(datamodule)
    datamodule.setup("fit")
    if settings.training.freeze_backbone and why_no_features(trainer.module.model, datamodule) is None:
        raise ConfigError(
            "With training.freeze_backbone=true and data.augmentation.train.mode=none each photo is read once, for "
            "features that are kept: the head trains on those in seconds, and no step over images is left to profile. "
            "Set another augmentation, or training.freeze_backbone=false."
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
            f"An epoch has {timed.batches_per_epoch} batches, fewer than were run: it was repeated, and where one "
            "began, the loader started again."
        )
    if not here.is_cpu:
        notes.append(
            "The profiler waits for each stage before the next. Training overlaps them, so it is somewhat faster."
        )
    if len(times.origins) > 1:
        shares = ", ".join(f"{count} from {origin}" for origin, count in Counter(times.origins).most_common())
        notes.append(f"Images come from several places: {shares} of {times.n_images}.")
    if settings.training.accumulate > 1:
        notes.append(f"A step is one batch; the optimizer steps after {settings.training.accumulate} of them.")
    return notes
