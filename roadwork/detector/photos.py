"""Photos to predict, still encoded, and the files that hold them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from roadwork.data.images import UnreadableImageError

# The largest file that is read. Above it is a video or a disk image with a photo's suffix: it would fill the memory.
MAX_BYTES = 1_000_000_000
NO_GPS = (float("nan"), float("nan"))


class Photo(NamedTuple):
    """One photo that is still encoded.

    Attributes:
        position: its number among all photos.
        key: identifies it in another call.
        name: as the user named it.
        load: gives its bytes; raises OSError or UnreadableImageError.
        gps: latitude, longitude in degrees from a column, NaN where there is none.
        captured_at: from a column; empty where there is none.
    """

    position: int
    key: str
    name: str
    load: Callable[[], bytes]
    gps: tuple[float, float] = NO_GPS
    captured_at: str = ""


class PhotoSource(Protocol):
    """Photos of one kind, in order."""

    def __len__(self) -> int: ...

    def keys(self) -> Iterator[str]:
        """What each is known by."""
        ...

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """Those where `wanted`, (N,) bool, is true, numbered from 0; their bytes are not read ahead."""
        ...


class PhotoFiles:
    """Photos in files of their own.

    Args:
        names: their paths as the user named them, or as they are to be shown.
        keys: their absolute paths.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing; None without.
        captured_at: of each; None without.
    """

    def __init__(
        self,
        names: Sequence[str],
        keys: Sequence[str],
        gps: np.ndarray | None = None,
        captured_at: Sequence[str] | None = None,
    ) -> None:
        self._names, self._keys, self._gps, self._captured_at = names, keys, gps, captured_at

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> Iterator[str]:
        return iter(self._keys)

    def take(self, wanted: Sequence[bool]) -> PhotoFiles:
        """Those where `wanted`, (N,), is true."""
        return PhotoFiles(
            list(compress(self._names, wanted)),
            list(compress(self._keys, wanted)),
            None if self._gps is None else self._gps[np.asarray(wanted)],
            None if self._captured_at is None else list(compress(self._captured_at, wanted)),
        )

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        for row in np.flatnonzero(wanted).tolist():
            gps = NO_GPS if self._gps is None else (float(self._gps[row, 0]), float(self._gps[row, 1]))
            captured_at = "" if self._captured_at is None else self._captured_at[row]
            key = self._keys[row]
            yield Photo(row, key, self._names[row], partial(read_file, key), gps, captured_at)


@dataclass(frozen=True)
class FoundPhotos:
    """All photos of a command, in the order of its inputs, each once.

    Attributes:
        sources: where they lie.
        n_duplicates: named more than once, and left out.
        n_hidden: files and folders whose names begin with a dot, left out.
        n_other: files without a photo's suffix, left out.
    """

    sources: Sequence[PhotoSource]
    n_duplicates: int = 0
    n_hidden: int = 0
    n_other: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def keys(self) -> Iterator[str]:
        """What each is known by."""
        return chain.from_iterable(source.keys() for source in self.sources)

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """Those where `wanted`, (N,) bool, is true."""
        start = 0
        for source in self.sources:
            end = start + len(source)
            for photo in source.photos(wanted[start:end]):
                yield photo._replace(position=start + photo.position)
            start = end


def read_file(path: str) -> bytes:
    """A photo's bytes.

    Raises:
        UnreadableImageError: it is larger than any photo.
    """
    n_bytes = os.stat(path).st_size  # noqa: PTH116 -- a Path of its own costs more than the call, a million times
    if n_bytes > MAX_BYTES:
        raise UnreadableImageError(
            f"it has {n_bytes / 1e9:.1f} GB, and no photo that is read has over {MAX_BYTES:,} bytes"
        )
    return Path(path).read_bytes()
