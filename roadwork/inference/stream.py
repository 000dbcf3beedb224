"""Photos read and decoded ahead of the network by a pool of threads, in their order, with a bound on what waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from roadwork.data.images import UnreadableImageError
from roadwork.inference.exif import CameraFacts, read_camera_facts
from roadwork.inference.photos import Photo
from roadwork.inference.views import read_views

T = TypeVar("T")
S = TypeVar("S")


class ReadPhoto(NamedTuple):
    """A photo as the network takes it, or why it cannot be read.

    Attributes:
        photo: which.
        pixels: (V, 3, S, S) uint8, a view each, or None.
        camera: what its EXIF header says.
        error: why there are no pixels; empty where there are.
    """

    photo: Photo
    pixels: Tensor | None
    camera: CameraFacts = CameraFacts()
    error: str = ""


def read_photo(photo: Photo, size: int, views: str) -> ReadPhoto:
    """Reads and decodes a photo.

    Args:
        photo: which.
        size: of the network's input, in pixels.
        views: as of `read_views`.
    """
    camera = CameraFacts()
    try:
        data = photo.load()
        camera = read_camera_facts(data)
        return ReadPhoto(photo, read_views(data, size, views), camera)
    except (OSError, ValueError, UnreadableImageError) as error:  # ValueError: a zero byte in a name
        return ReadPhoto(photo, None, camera, getattr(error, "strerror", None) or str(error))


def map_ahead(function: Callable[[T], S], items: Iterable[T], threads: int, ahead: int) -> Iterator[S]:
    """What `function` gives for each item, in order, worked out by threads.

    Threads, not processes: decoders and resizing let go of the interpreter, and pixels need not be copied. Each has one
    torch thread, or as many cores as there are would be asked for by each of them.

    Args:
        function: is called in the threads.
        items: are taken from the caller's thread.
        threads: that work.
        ahead: results that are begun before they are asked for: the bound of the memory.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(threads, "decode", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[Future[S]] = deque(pool.submit(function, item) for item in islice(iterator, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                with suppress(StopIteration):
                    pending.append(pool.submit(function, next(iterator)))
                yield result
                del result  # or it would live as long as the caller takes with the next one
        finally:
            for future in pending:
                future.cancel()


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
