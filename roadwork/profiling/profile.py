"""The profile of a configuration's training: its stages, its input, what bounds it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from joblib import cpu_count

from roadwork.data.datamodule import NATIXDataModule
from roadwork.errors import ConfigError
from roadwork.preflight.dry_run import prepare_trainer
from roadwork.profiling.advice import Circumstances, what_to_try
from roadwork.profiling.input_times import InputTimes, time_input
from roadwork.profiling.loop import TimedSteps, time_steps
from roadwork.profiling.spread import Spread, spread_ms
from roadwork.profiling.stage_clock import STAGES
from roadwork.profiling.verdict import Verdict, judge
from roadwork.settings import Settings
from roadwork.training.frozen import why_no_features


@dataclass(frozen=True)
class StageTime:
    """A stage of the step: its milliseconds, and its share of all steps' time, 0 to 1."""

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
    here: Circumstances
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
    """Times single images, then steps of the real training loop; nothing is left behind but the trace.

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
    here = Circumstances(
        timed.device, timed.precision, timed.workers, cpu_count(), torch.get_num_threads(), times.origin
    )
    per_step = [sum(step.values()) for step in timed.seconds]
    step_s = sum(per_step) / len(per_step)
    stages = []
    for name in STAGES:
        seconds = [step.get(name, 0.0) for step in timed.seconds]
        stages.append(StageTime(name, spread_ms(seconds), sum(seconds) / sum(per_step)))
    mean_s = {stage.stage: stage.ms.mean / 1000 for stage in stages}
    images_per_step = sum(timed.n_images) / len(timed.n_images)
    verdict = judge(mean_s, images_per_step, times, timed.workers, here.cores)
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
        options=what_to_try(verdict.bound_by, settings, here),
        batches_per_epoch=timed.batches_per_epoch,
        epoch_seconds=pace_s * timed.batches_per_epoch,
        notes=_notes(settings, here, times, timed),
    )


def _notes(settings: Settings, here: Circumstances, times: InputTimes, timed: TimedSteps) -> list[str]:
    notes = []
    if timed.n_warmup + len(timed.seconds) > timed.batches_per_epoch:
        notes.append(
            f"An epoch has {timed.batches_per_epoch} batches, fewer than were run: it was repeated, and where one "
            "began, the loader started again."
        )
    if not here.is_cpu:
        notes.append(
            "Each stage was waited for before the next began. Training overlaps them, so it is somewhat quicker."
        )
    if len(times.origins) > 1:
        shares = ", ".join(f"{count} from {origin}" for origin, count in Counter(times.origins).most_common())
        notes.append(f"Images come from several places: {shares} of {times.n_images}.")
    if settings.training.accumulate > 1:
        notes.append(f"A step is one batch; the optimizer steps after {settings.training.accumulate} of them.")
    return notes
