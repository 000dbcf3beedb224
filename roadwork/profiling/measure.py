"""Times the stages of a few real training steps and the reading of photos."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from rich.progress import Progress
from typing_extensions import override

from roadwork.core.errors import DataError
from roadwork.core.files import atomic_path
from roadwork.core.progress import new_progress, track
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ImageStore
from roadwork.data.images import ImageEnds, ImageSource, UnreadableImage
from roadwork.training.devices import build_lightning_trainer, compile_network
from roadwork.training.trainers.base_trainer import BaseTrainer

N_IMAGES = 24
MAX_SECONDS = 15.0
RAM, COPY, PHOTOS = "RAM", "resized copy", "photos"
OTHER = "other"

# In the order of a step: what the stage is called, and what happens in it.
STAGES = {
    "wait": "for the loader's next batch",
    "transfer": "the batch to the device",
    "augment": "augmentation and normalising",
    "forward": "network and loss",
    "backward": "gradients",
    "optimizer": "clipping, step and schedule",
    "callbacks": "EMA, MCC, learning rate",
    OTHER: "Lightning's loop and logging",
}
_FETCH = "train_dataloader_next"
_EPOCH_END = "on_train_epoch_end"
_STAGE_OF_HOOK = {
    _FETCH: "wait",
    "on_before_batch_transfer": "transfer",
    "batch_to_device": "transfer",
    "on_after_batch_transfer": "augment",
    "training_step": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer",
    "optimizer_zero_grad": "optimizer",
    "lr_scheduler_step": "optimizer",
}

# The first steps allocate memory, choose kernels and start workers; a compiled network compiles in them.
WARMUP_STEPS, WARMUP_STEPS_COMPILED = 3, 8
TRACED_STEPS = 2


@dataclass(frozen=True)
class Spread:
    """Milliseconds over repetitions: the median, the 10th and 90th percentile, and the mean, which alone adds up."""

    median: float
    p10: float
    p90: float
    mean: float


def spread_ms(seconds: Sequence[float]) -> Spread:
    """The spread in milliseconds of times in seconds."""
    milliseconds = 1000 * np.asarray(seconds)
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    return Spread(float(median), float(p10), float(p90), float(milliseconds.mean()))


@dataclass(frozen=True)
class InputTimes:
    """Images of `train`, one after another on one core.

    Attributes:
        n_images: timed ones.
        origins: where they came from, and how many.
        read_ms: bytes from the photo's file or table, as warm in the system's cache as it happened to be; 0 elsewhere.
        decode_ms: to (3, S, S) pixels: the photo's decoding, the copy's reading, or what it takes to find one in RAM.
        images_per_s: of one core.
    """

    n_images: int
    origins: dict[str, int]
    read_ms: Spread
    decode_ms: Spread
    images_per_s: float

    @property
    def origin(self) -> str:
        """Where most of them came from."""
        return max(self.origins, key=lambda name: self.origins[name])


class _TimedSource:
    """Photos, and the seconds that reading them has taken since `seconds` was last set to None."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.seconds: float | None = None

    def read(self, row: int) -> bytes:
        started = time.perf_counter()
        data = self._source.read(row)
        self.seconds = time.perf_counter() - started
        return data

    def read_ends(self, row: int) -> ImageEnds:
        return self._source.read_ends(row)


def time_input(datamodule: NATIXDataModule, seed: int) -> InputTimes:
    """Times up to 24 random rows of `train`, for 15 seconds at most; unreadable ones are counted as training would.

    Raises:
        DataError: more images than `data.max_unreadable` cannot be read, or none of these can.
    """
    dataset = datamodule.datasets["train"]
    source = _TimedSource(dataset.store.source)
    store = copy.copy(dataset.store)
    store.source = source
    rows = np.random.default_rng(seed).permutation(dataset.rows)[:N_IMAGES]
    store.get(int(rows[0]))  # the first image of all also loads Pillow's codecs
    origins: Counter[str] = Counter()
    reads, decodes = [], []
    deadline = time.perf_counter() + MAX_SECONDS
    for row in track(rows.tolist(), len(rows), "Timing single images"):
        source.seconds = None
        started = time.perf_counter()
        image = store.get(row)
        seconds = time.perf_counter() - started
        if isinstance(image, UnreadableImage):
            datamodule.ledger.add([image])
            continue
        origins[_origin(store, image, was_read=source.seconds is not None)] += 1
        reads.append(source.seconds or 0.0)
        decodes.append(seconds - reads[-1])
        if time.perf_counter() > deadline:
            break
    if not reads:
        raise DataError(f"None of {len(rows)} images of train could be read. Mend or remove them.")
    per_image = (sum(reads) + sum(decodes)) / len(reads)
    return InputTimes(len(reads), dict(origins), spread_ms(reads), spread_ms(decodes), 1 / per_image)


def _origin(store: ImageStore, image: torch.Tensor, *, was_read: bool) -> str:
    if was_read:
        return PHOTOS
    loaded = store.loaded
    is_view = loaded is not None and image.untyped_storage().data_ptr() == loaded.untyped_storage().data_ptr()
    return RAM if is_view else COPY


class StageClock(Profiler):
    """A Lightning profiler that gives each moment of a training step to one stage, so that the stages add up to it.

    An action inside another one takes its time from it: `optimizer_step` calls the forward and the backward pass. An
    action that belongs to no stage counts for the one around it.

    Args:
        synchronise: waits until the device has done what it was given; called wherever a stage ends.
        label: mark the stages in a torch profiler's trace.

    Attributes:
        steps: for each step, the seconds of its stages. It begins when a batch is asked for.
    """

    def __init__(self, synchronise: Callable[[], None], *, label: bool = False) -> None:
        super().__init__()
        self.steps: list[Counter[str]] = []
        self._synchronise = synchronise
        self._current = OTHER
        self._stages_around: list[str] = []
        self._in_step = False
        self._since = 0.0
        self._makes_labels = label
        self._label: torch.profiler.record_function | None = None

    @override
    def start(self, action_name: str) -> None:
        hook = action_name.rpartition(".")[2]
        stage = "callbacks" if action_name.startswith("[Callback]") else _STAGE_OF_HOOK.get(hook, self._current)
        if hook in (_FETCH, _EPOCH_END):
            self._close_stage()
            self._in_step = hook == _FETCH
            if self._in_step:
                self.steps.append(Counter())
        self._stages_around.append(self._current)
        self._enter(stage)

    @override
    def stop(self, action_name: str) -> None:
        self._enter(self._stages_around.pop())

    def _enter(self, stage: str) -> None:
        if stage != self._current:
            self._close_stage()
            self._current = stage
            if self._makes_labels:
                self._mark(stage)

    def _close_stage(self) -> None:
        self._synchronise()
        now = time.perf_counter()
        if self._in_step:
            self.steps[-1][self._current] += now - self._since  # type: ignore[assignment]  # Counter's stubs want integers
        self._since = now

    def _mark(self, stage: str) -> None:
        if self._label is not None:
            self._label.__exit__(None, None, None)
        self._label = torch.profiler.record_function(f"roadwork: {stage}")
        self._label.__enter__()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class TimedSteps:
    """What was measured, and on what.

    Attributes:
        seconds: for each step, the seconds of its stages.
        n_images: of each step's batch.
        n_warmup: steps before these, left out.
        batches_per_epoch: of the training split.
        workers: processes of the loader.
        device: torch's name of it, such as cpu or cuda:0.
        precision: Lightning's name of it.
    """

    seconds: list[dict[str, float]]
    n_images: list[int]
    n_warmup: int
    batches_per_epoch: int
    workers: int
    device: str
    precision: str


class _Steps(Callback):
    """Counts the images of each batch, traces the last ones where a file is named, and ends the fit."""

    def __init__(self, n_steps: int, trace: Path | None, progress: Progress) -> None:
        self.n_images: list[int] = []
        self._n_untraced = n_steps + 1 if trace else n_steps  # switching the trace on would count for a step
        self._n_all = self._n_untraced + (TRACED_STEPS if trace else 0)
        self._trace = trace
        self._tracer: torch.profiler.profile | None = None
        self._advance: Callable[[], None] = lambda: progress.advance(task)
        task = progress.add_task("Training steps", total=self._n_all)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.n_images.append(len(batch["label"]))
        self._advance()
        n_done = len(self.n_images)
        if self._trace is not None and n_done == self._n_untraced:
            self._tracer = torch.profiler.profile()
            self._tracer.start()
        if n_done == self._n_all:
            trainer.should_stop = True
            if self._tracer is not None and self._trace is not None:
                self._tracer.stop()
                self._tracer.export_chrome_trace(str(self._trace))


def time_steps(datamodule: NATIXDataModule, trainer: BaseTrainer, n_steps: int, trace: Path | None) -> TimedSteps:
    """Trains on `n_steps` batches after a few that are left out, as `BaseTrainer.fit` would begin.

    Nothing is validated or saved, and the log goes to a temporary folder. On an accelerator each stage is waited for
    before the next begins, so that its time is its own. An epoch with fewer batches is repeated.

    Args:
        datamodule: set up for a fit.
        trainer: its network's weights move.
        n_steps: batches, at least 1.
        trace: a file for a Chrome trace of two further steps.
    """
    training = trainer.settings.training
    n_warmup = WARMUP_STEPS_COMPILED if training.compile else WARMUP_STEPS
    is_on_accelerator = torch.accelerator.is_available() and training.accelerator != "cpu"
    clock = StageClock(torch.accelerator.synchronize if is_on_accelerator else lambda: None, label=trace is not None)
    with (
        TemporaryDirectory(prefix="roadwork-profile-") as name,
        new_progress() as progress,
        atomic_path(trace) if trace else nullcontext() as traced,
    ):
        steps = _Steps(n_warmup + n_steps, traced, progress)
        lightning_trainer = build_lightning_trainer(
            training,
            [*trainer.callbacks, LearningRateMonitor(logging_interval="step"), steps],
            Path(name),
            alone=True,
            max_epochs=max(training.epochs, n_warmup + n_steps + 1 + TRACED_STEPS),  # an epoch has a batch at least
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=TensorBoardLogger(name, name="", version="tensorboard"),
            enable_checkpointing=False,
            enable_progress_bar=False,
            profiler=clock,
        )
        if training.compile:
            compile_network(trainer.module.model, lightning_trainer.strategy.root_device)
        try:
            lightning_trainer.fit(trainer.module, datamodule=datamodule)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from error
    measured = slice(n_warmup, n_warmup + n_steps)
    return TimedSteps(
        seconds=[dict(step) for step in clock.steps[measured]],
        n_images=steps.n_images[measured],
        n_warmup=n_warmup,
        batches_per_epoch=int(lightning_trainer.num_training_batches),
        workers=lightning_trainer.train_dataloader.num_workers,  # type: ignore[union-attr]  # there is one after a fit
        device=str(lightning_trainer.strategy.root_device),
        precision=str(lightning_trainer.precision),
    )
