"""Encoded photos to predict, and the files that contain them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, compress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from roadwork.data.formats import LeftOut
from roadwork.data.images import UnreadableImageError

# Larger files are not photos, but for example videos with a photo's suffix. Reading them would fill the memory.
MAX_BYTES = 1_000_000_000
NO_GPS = (float("nan"), float("nan"))


class Photo(NamedTuple):
    """An encoded photo.

    Attributes:
        position: its index among all photos.
        key: identifies it in later calls.
        name: as the user named it.
        load: returns its bytes; raises OSError or UnreadableImageError.
        gps: latitude, longitude in degrees from a column; NaN if missing.
        captured_at: time from a column; empty if missing.
    """

    position: int
    key: str
    name: str
    load: Callable[[], bytes]
    gps: tuple[float, float] = NO_GPS
    captured_at: str = ""


class PhotoSource(Protocol):
    """An ordered collection of photos."""

    def __len__(self) -> int: ...

    def keys(self) -> Iterator[str]:
        """The key of each photo."""
        ...

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """The photos where `wanted`, (N,) bool, is True, numbered from 0; their bytes are not read ahead."""
        ...


class PhotoFiles:
    """Photos in files of their own.

    Args:
        names: their paths as the user named them, or names for people.
        keys: their absolute paths.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing; None if unknown for all.
        captured_at: (N,) times; None if unknown for all.
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
        """The photos where `wanted`, (N,), is True."""
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
    """All photos of a command, in the order of its inputs, without duplicates.

    Attributes:
        sources: the photos by source.
        n_duplicates: skipped repetitions.
        n_hidden: skipped files and folders whose names begin with a dot.
        left_out: skipped files without a photo's suffix.
    """

    sources: Sequence[PhotoSource]
    n_duplicates: int = 0
    n_hidden: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    @property
    def n_other(self) -> int:
        """Number of skipped files without a photo's suffix."""
        return len(self.left_out)

    def keys(self) -> Iterator[str]:
        """The key of each photo."""
        return chain.from_iterable(source.keys() for source in self.sources)

    def photos(self, wanted: np.ndarray) -> Iterator[Photo]:
        """The photos where `wanted`, (N,) bool, is True."""
        start = 0
        for source in self.sources:
            end = start + len(source)
            for photo in source.photos(wanted[start:end]):
                yield photo._replace(position=start + photo.position)
            start = end


def read_file(path: str) -> bytes:
    """The bytes of a photo.

    Raises:
        UnreadableImageError: the file is too large.
    """
    n_bytes = os.stat(path).st_size  # noqa: PTH116 -- creating a Path takes longer than the call
    if n_bytes > MAX_BYTES:
        raise UnreadableImageError(f"it has {n_bytes / 1e9:.1f} GB; the limit is {MAX_BYTES:,} bytes")
    return Path(path).read_bytes()
