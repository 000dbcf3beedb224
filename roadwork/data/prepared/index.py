"""Which rows of a table the shards of a copy hold, as their photos are today."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadwork.data.image_identity import UNREADABLE, identify_image
from roadwork.data.images import ImageSource
from roadwork.data.prepared.shards import DamagedError, Shard, open_shard
from roadwork.data.table import SampleTable
from roadwork.progress import track

logger = logging.getLogger(__name__)

_N_THREADS = 16
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class CopyIndex:
    """The shards of a copy against a table of N rows.

    Attributes:
        shards: those that can be opened.
        damaged: why each other one cannot, by its path.
        identities: of the rows' photos today.
        record: (N,) which picture is a row's, counted through all `shards`; -1 where none is of its photo of today.
        is_changed: (N,) bool, the rows whose photos have changed since.
    """

    shards: list[Shard]
    damaged: dict[Path, str]
    identities: list[str]
    record: np.ndarray
    is_changed: np.ndarray

    @property
    def has(self) -> np.ndarray:
        """(N,) bool, the rows that the copy holds as they are today."""
        held: np.ndarray = self.record >= 0
        return held

    @property
    def shard(self) -> np.ndarray:
        """(N,) which of `shards` has a row's picture; -1 where none has."""
        ends = np.cumsum([len(shard) for shard in self.shards])
        position: np.ndarray = np.where(self.has, np.searchsorted(ends, self.record, side="right"), -1)
        return position

    @property
    def is_missing(self) -> np.ndarray:
        """(N,) bool, the rows whose photo is there and whose picture is not."""
        missing: np.ndarray = _is_there(self.identities) & ~self.has
        return missing

    def unused_shards(self, table: SampleTable) -> list[Path]:
        """Shards without any picture that is still of use: their rows have changed, moved to others, or are gone.

        A photo that cannot be read today may come back.
        """
        used = set(self.shard.tolist())
        away = {row_id for row_id, identity in zip(table.ids, self.identities, strict=True) if identity == UNREADABLE}
        return [
            shard.path
            for position, shard in enumerate(self.shards)
            if position not in used and away.isdisjoint(shard.ids)
        ]


def index_copy(paths: Sequence[Path], table: SampleTable, source: ImageSource) -> CopyIndex:
    """Opens shards and finds the table's rows in them by id and by the photos' identities today."""
    shards, damaged = [], {}
    for path in paths:
        try:
            shards.append(open_shard(path))
        except DamagedError as error:
            damaged[path] = str(error)
    identities = identify_images(source, len(table))
    return _match(shards, damaged, table, identities)


def identify_images(source: ImageSource, n: int) -> list[str]:
    """`identify_image` of each row; in threads, as a network's disk answers slowly, and many at once."""
    found: list[str] = []
    with ThreadPoolExecutor(_N_THREADS) as pool:
        chunks = (range(start, min(n, start + _CHUNK_ROWS)) for start in range(0, n, _CHUNK_ROWS))
        answers = (answer for rows in chunks for answer in pool.map(lambda row: identify_image(source, row), rows))
        found.extend(track(answers, n, "Looking at photos"))
    return found


def _match(shards: list[Shard], damaged: dict[Path, str], table: SampleTable, identities: list[str]) -> CopyIndex:
    keys = [key for shard in shards for key in zip(shard.ids, shard.identities, strict=True)]
    places = {key: number for number, key in enumerate(keys)}
    known = {row_id for row_id, _ in keys}
    ids = [str(row_id) for row_id in table.ids]
    record = np.array([places.get(key, -1) for key in zip(ids, identities, strict=True)], dtype=np.int64)
    is_known = np.array([row_id in known for row_id in ids], dtype=bool)
    return CopyIndex(shards, damaged, identities, record, is_known & _is_there(identities) & (record < 0))


def _is_there(identities: list[str]) -> np.ndarray:
    return np.array([identity != UNREADABLE for identity in identities], dtype=bool)
