"""Times the stages of a few real training steps, and the loading of single images."""

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

# The stages of a step in order, each with a description.
STAGES = {
    "wait": "for the loader's next batch",
    "transfer": "of the batch to the device",
    "augment": "augmentation and normalisation",
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

# The first steps allocate memory, select kernels, start workers and, with training.compile, compile the network.
WARMUP_STEPS, WARMUP_STEPS_COMPILED = 3, 8
TRACED_STEPS = 2


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile, and mean of measurements, in milliseconds. Only the means can be summed."""

    median: float
    p10: float
    p90: float
    mean: float


def spread_ms(seconds: Sequence[float]) -> Spread:
    """The spread of times given in seconds."""
    milliseconds = 1000 * np.asarray(seconds)
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    return Spread(float(median), float(p10), float(p90), float(milliseconds.mean()))


@dataclass(frozen=True)
class InputTimes:
    """The time to load single images of `train`, one after another on one core.

    Attributes:
        n_images: number of timed images.
        origins: number of images by origin.
        read_ms: time to read the photo's bytes, which the system may have cached; 0 for RAM and the resized copy.
        decode_ms: time to get (3, S, S) pixels: to decode the photo, to read the resized copy, or to look up RAM.
        images_per_s: images per second on one core.
    """

    n_images: int
    origins: dict[str, int]
    read_ms: Spread
    decode_ms: Spread
    images_per_s: float

    @property
    def origin(self) -> str:
        """The origin of most images."""
        return max(self.origins, key=lambda name: self.origins[name])


class _TimedSource:
    """An image source that stores the seconds of its latest read in `seconds`."""

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
    """Times the loading of up to 24 random images of `train`, for at most 15 seconds.

    Unreadable images count towards `data.max_unreadable`, as in training.

    Raises:
        DataError: more images than `data.max_unreadable` cannot be read, or none of the timed images can.
    """
    dataset = datamodule.datasets["train"]
    source = _TimedSource(dataset.store.source)
    store = copy.copy(dataset.store)
    store.source = source
    rows = np.random.default_rng(seed).permutation(dataset.rows)[:N_IMAGES]
    store.get(int(rows[0]))  # the first image also loads Pillow's codecs
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
        raise DataError(f"None of {len(rows)} images of train could be read. Repair or remove them.")
    per_image = (sum(reads) + sum(decodes)) / len(reads)
    return InputTimes(len(reads), dict(origins), spread_ms(reads), spread_ms(decodes), 1 / per_image)


def _origin(store: ImageStore, image: torch.Tensor, *, was_read: bool) -> str:
    if was_read:
        return PHOTOS
    loaded = store.loaded
    is_view = loaded is not None and image.untyped_storage().data_ptr() == loaded.untyped_storage().data_ptr()
    return RAM if is_view else COPY


class StageClock(Profiler):
    """A Lightning profiler that splits a training step into stages whose times add up to the step's.

    The time of a nested action counts for its own stage only: `optimizer_step` calls the forward and backward pass.
    An action without a stage counts for the stage around it.

    Args:
        synchronise: waits for the device's queued work; called at the end of each stage.
        label: mark the stages in a torch profiler's trace.

    Attributes:
        steps: the seconds of each stage, per step. A step starts when the next batch is requested.
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
    """The measured training steps.

    Attributes:
        seconds: the seconds of each stage, per step.
        n_images: images per step.
        n_warmup: number of excluded steps before these.
        batches_per_epoch: batches of the training split per epoch.
        workers: number of loader processes.
        device: torch's name of the device, such as cpu or cuda:0.
        precision: Lightning's name of the precision.
    """

    seconds: list[dict[str, float]]
    n_images: list[int]
    n_warmup: int
    batches_per_epoch: int
    workers: int
    device: str
    precision: str


class _Steps(Callback):
    """Counts the images of each batch, traces the last steps if a file is given, and stops the fit."""

    def __init__(self, n_steps: int, trace: Path | None, progress: Progress) -> None:
        self.n_images: list[int] = []
        self._n_untraced = n_steps + 1 if trace else n_steps  # starting the trace would add to a step's time
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
    """Times `n_steps` training steps after a few warm-up steps, as at the start of `BaseTrainer.fit`.

    There is no validation and no checkpoint, and the log goes to a temporary folder. On an accelerator, each stage
    waits for the device before the next one starts, so each stage has its own time. Short epochs are repeated.

    Args:
        datamodule: set up for a fit.
        trainer: its network is trained in place.
        n_steps: number of measured batches, at least 1.
        trace: file for a Chrome trace of two further steps.
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
            max_epochs=max(training.epochs, n_warmup + n_steps + 1 + TRACED_STEPS),  # an epoch has at least one batch
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
        except SystemExit as error:  # Lightning exits on Ctrl-C
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
