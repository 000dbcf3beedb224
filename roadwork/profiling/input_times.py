"""How long one image of the training split takes to read and to decode, on one core, by itself."""

from __future__ import annotations

import copy
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.dataset import ImageStore, UnreadableImage
from roadwork.data.images import ImageEnds, ImageSource
from roadwork.errors import DataError
from roadwork.profiling.spread import Spread, spread_ms
from roadwork.progress import track

N_IMAGES = 24
MAX_SECONDS = 15.0
RAM, COPY, PHOTOS = "RAM", "resized copy", "photos"


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
