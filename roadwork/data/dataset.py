"""The torch dataset of decoded images, and a loader that resumes inside an epoch."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roadwork.core.errors import DataError
from roadwork.core.progress import track
from roadwork.data.images import (
    EVALUATION_SCALE,
    ImageSource,
    UnreadableImage,
    UnreadableImageError,
    decode_image,
    quick_check,
)
from roadwork.data.prepared.copy import PreparedCopy
from roadwork.data.table import SampleTable

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LISTED = 20
_CHUNK_ROWS = 1024


@dataclass
class UnreadableLedger:
    """Collects the unreadable images of a run, and stops it if they exceed the allowed share.

    Attributes:
        table: the metadata of all rows.
        max_share: allowed share of all rows, 0 to 1.
        reasons: row to reason.
    """

    table: SampleTable
    max_share: float
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, found: Sequence[UnreadableImage]) -> None:
        """Adds unreadable images.

        Raises:
            DataError: there are more than `max_share`; the message lists the first 20.
        """
        new = {image.row: image.reason for image in found if image.row not in self.reasons}
        if not new:
            return
        self.reasons |= new
        share = len(self.reasons) / len(self.table)
        lines = [f"  {self.table.filenames[row] or self.table.ids[row]}: {why}" for row, why in self.reasons.items()]
        if len(lines) > _LISTED:
            lines[_LISTED:] = [f"  ... and {len(lines) - _LISTED} more"]
        message = "\n".join(
            [f"{len(self.reasons)} of {len(self.table):,} images cannot be read ({share:.2%}):", *lines]
        )
        if share > self.max_share:
            raise DataError(
                f"{message}\nAllowed: {self.max_share:.2%} (data.max_unreadable). "
                "Fix or remove them, or raise the share to continue without them."
            )
        logger.warning("%s\nThey are skipped.", message)


class ImageStore:
    """Images of rows as (3, size, size) uint8, from the RAM cache, else the resized copy, else the photos.

    Args:
        source: the photos.
        size: pixels.
        scale: decoding scale, see `decode_image`.
        copy: the resized copy, if there is one to read.
    """

    def __init__(
        self, source: ImageSource, size: int, *, scale: int = EVALUATION_SCALE, copy: PreparedCopy | None = None
    ) -> None:
        self.source = source
        self.size = size
        self.scale = scale
        self.copy = copy
        self.loaded: Tensor | None = None
        self._place = np.zeros(0, dtype=np.int64)

    def get(self, row: int) -> Tensor | UnreadableImage:
        """(3, size, size) uint8 RGB of a row, or the reason that it cannot be read."""
        if self.loaded is not None and row < len(self._place) and self._place[row] >= 0:
            return self.loaded[self._place[row]]
        try:
            pixels = self.copy.image(row, self.size) if self.copy is not None else None
            if pixels is None:
                pixels = decode_image(self.source.read(row), self.size, self.scale)
        except UnreadableImageError as error:
            return UnreadableImage(row, str(error))
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def find_unreadable(self, rows: np.ndarray) -> list[UnreadableImage]:
        """The files that are missing, empty, truncated or not images, found without decoding whole images."""
        reasons = _in_threads(lambda row: quick_check(self.source, row), rows, 16, "Checking images")
        return [UnreadableImage(row, why) for row, why in zip(rows.tolist(), reasons, strict=True) if why]

    def load_into_ram(self, rows: np.ndarray) -> list[UnreadableImage]:
        """Decodes these rows into the RAM cache; returns those that cannot be decoded."""
        loaded = torch.zeros((len(rows), 3, self.size, self.size), dtype=torch.uint8)
        place = np.full(int(rows.max(initial=-1)) + 1, -1)
        unreadable = []
        images = _in_threads(self.get, rows, None, "Reading images into RAM")
        for number, (row, image) in enumerate(zip(rows.tolist(), images, strict=True)):
            if isinstance(image, UnreadableImage):
                unreadable.append(image)
            else:
                loaded[number] = image
                place[row] = number
        self.loaded, self._place = loaded, place
        return unreadable


def _in_threads(function: Callable[[int], T], rows: np.ndarray, n_threads: int | None, description: str) -> Iterator[T]:
    """`function` of each row, in order, with a progress bar; in chunks, to bound memory and react to Ctrl-C."""
    with ThreadPoolExecutor(n_threads) as pool:
        chunks = (rows[start : start + _CHUNK_ROWS].tolist() for start in range(0, len(rows), _CHUNK_ROWS))
        yield from track(chain.from_iterable(pool.map(function, chunk) for chunk in chunks), len(rows), description)


class RoadworkDataset(Dataset[dict[str, Any] | UnreadableImage]):
    """The images and labels of one split.

    An item is a dict: `image` (3, size, size) uint8, `label` 0 or 1, `index` the row of the table.
    """

    def __init__(self, table: SampleTable, rows: np.ndarray, store: ImageStore) -> None:
        self.rows = rows
        self.labels = table.labels[rows]
        self.gps = table.gps[rows]
        """(N, 2) latitude, longitude in degrees, NaN where missing; what samplers read."""
        self.store = store

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any] | UnreadableImage:
        image = self.store.get(int(self.rows[index]))
        if isinstance(image, UnreadableImage):
            return image
        return {"image": image, "label": int(self.labels[index]), "index": int(self.rows[index])}


def collate(items: Sequence[dict[str, Any] | UnreadableImage]) -> dict[str, Any]:
    """A batch of the readable items: `image` (B, 3, S, S) uint8, `label` and `index` (B,) int64.

    `unreadable` lists the others.
    """
    readable = [item for item in items if not isinstance(item, UnreadableImage)]
    unreadable = [item for item in items if isinstance(item, UnreadableImage)]
    images = torch.stack([item["image"] for item in readable]) if readable else torch.empty(0)
    labels, index = (torch.tensor([item[key] for item in readable], dtype=torch.int64) for key in ("label", "index"))
    return {"image": images, "label": labels, "index": index, "unreadable": unreadable}


def ignore_interrupts(worker: int) -> None:
    """Makes a worker process ignore Ctrl-C, which reaches all processes of a terminal; the main process handles it."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A ``DataLoader`` that continues inside an epoch, at the first batch that its trainer has not completed.

    Only a trainer resumed from a checkpoint inside an epoch has completed batches; every other pass starts at the
    beginning. The loader's own position would be wrong, because prefetching runs ahead of training. The sampler needs
    ``start_at``.

    Training batches have their `epoch` and `position`, the number of this rank's rows before them in the epoch. Batches
    with another rank's rows have `is_repeat`.

    Attributes:
        trainer: the trainer whose training loader this is, if any.
        is_repeat: whether the rows belong to another rank and must not count twice.
    """

    trainer: L.Trainer | None = None
    is_repeat = False

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # torch names its own iterator's class
        # Lightning requests the iterator before it restores its counts and the epoch, and worker processes draw at
        # once. A generator waits for the request of the first batch.
        n_completed = self._completed_batches()
        if n_completed:
            self.sampler.start_at(n_completed * self.batch_size)  # type: ignore[attr-defined, operator]
        epoch = getattr(self.sampler, "epoch", 0)
        repeat = {"is_repeat": True} if self.is_repeat else {}
        for number, batch in enumerate(super().__iter__(), n_completed):
            # Trainer.predict replaces the batch sampler, and then there is no batch size.
            where = {} if self.batch_size is None else {"epoch": epoch, "position": number * self.batch_size}
            yield batch | repeat | where

    def _completed_batches(self) -> int:
        trainer = self.trainer
        if trainer is None or not trainer.training or trainer.train_dataloader is not self:
            return 0
        return trainer.fit_loop.epoch_loop.batch_progress.current.completed

    def state_dict(self) -> dict[str, Any]:
        """Empty; its presence marks the loader as stateful for Lightning, so that it can resume inside an epoch."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing, because the trainer knows the position."""
