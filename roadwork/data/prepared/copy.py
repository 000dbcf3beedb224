"""The resized copy of a dataset, as training reads it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadwork.core.errors import DataError
from roadwork.core.progress import track
from roadwork.data.images import (
    READER_VERSION,
    UNREADABLE,
    ImageSource,
    UnreadableImageError,
    decode_image,
    identify_image,
)
from roadwork.data.prepared.shards import (
    DamagedError,
    Manifest,
    Shard,
    candidate_folders,
    key_checksum,
    open_shard,
    read_jpeg,
    read_manifest,
    shard_paths,
    wanted_folder,
    wanted_short_side,
)
from roadwork.data.source import dataset_key
from roadwork.data.table import SampleTable
from roadwork.settings import DataSettings

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
        missing: np.ndarray = _is_readable(self.identities) & ~self.has
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
    return _match_rows(shards, damaged, table, identities)


def identify_images(source: ImageSource, n: int) -> list[str]:
    """`identify_image` of each row; in threads, as a network's disk answers slowly, and many at once."""
    found: list[str] = []
    with ThreadPoolExecutor(_N_THREADS) as pool:
        chunks = (range(start, min(n, start + _CHUNK_ROWS)) for start in range(0, n, _CHUNK_ROWS))
        answers = (answer for rows in chunks for answer in pool.map(lambda row: identify_image(source, row), rows))
        found.extend(track(answers, n, "Looking at photos"))
    return found


def _match_rows(shards: list[Shard], damaged: dict[Path, str], table: SampleTable, identities: list[str]) -> CopyIndex:
    keys = [key for shard in shards for key in zip(shard.ids, shard.identities, strict=True)]
    places = {key: number for number, key in enumerate(keys)}
    known = {row_id for row_id, _ in keys}
    ids = [str(row_id) for row_id in table.ids]
    record = np.array([places.get(key, -1) for key in zip(ids, identities, strict=True)], dtype=np.int64)
    is_known = np.array([row_id in known for row_id in ids], dtype=bool)
    return CopyIndex(shards, damaged, identities, record, is_known & _is_readable(identities) & (record < 0))


def _is_readable(identities: list[str]) -> np.ndarray:
    return np.array([identity != UNREADABLE for identity in identities], dtype=bool)


class PreparedCopy:
    """Resized images of a table's rows; it can be sent to worker processes.

    It holds no open file: a picture is read by its place, in whatever thread or process asks for it.

    Attributes:
        folder: where it lies.
        short_side: pixels of its images' shorter side.
        has: (N,) bool, the rows of the table whose image it holds as it is today.
    """

    folder: Path
    short_side: int
    has: np.ndarray

    def __init__(self, folder: Path, short_side: int, table: SampleTable, index: CopyIndex) -> None:
        self.folder = folder
        self.short_side = short_side
        self.has = index.has
        self._files = [str(shard.path) for shard in index.shards]
        self._shard = index.shard.astype(np.int32)
        # Where a row has no picture these are of another one, and not looked at.
        self._offset, self._length, self._checksum = (
            np.concatenate([getattr(shard, name) for shard in index.shards])[index.record]
            for name in ("offsets", "lengths", "checksums")
        )
        keys = (
            key_checksum(str(row_id), identity) for row_id, identity in zip(table.ids, index.identities, strict=True)
        )
        self._key = np.fromiter(keys, np.uint32, len(table))
        self._has_warned = False

    def image(self, row: int, size: int) -> np.ndarray | None:
        """(size, size, 3) uint8 RGB of a row; None where the copy does not hold it, so that the photo is read."""
        if not self.has[row]:
            return None
        where = (self._offset[row], self._length[row], self._key[row], self._checksum[row])
        try:
            return decode_image(read_jpeg(self._files[self._shard[row]], *map(int, where)), size)
        except (DamagedError, UnreadableImageError) as error:
            self._warn_of_damage(error)
            return None

    def _warn_of_damage(self, error: Exception) -> None:
        if self._has_warned:
            return
        self._has_warned = True
        logger.warning(
            "The resized copy is damaged: %s. What it cannot give is read from the photos. "
            "`roadwork prepare --verify` finds all damage and mends it.",
            error,
        )


def find_copy(data: DataSettings, table: SampleTable, source: ImageSource) -> PreparedCopy | None:
    """The copy that training reads, said in the log; None where `data.prepared.use` is never or there is none.

    Raises:
        DataError: `data.prepared.use` is require, and there is none that fits.
    """
    if data.prepared.use == "never":
        return None
    folder, manifest = _choose_copy(data)
    if manifest is None:
        if data.prepared.use == "require":
            raise DataError(
                f"data.prepared.use is require, and no resized copy in {folder} fits. "
                "Run `roadwork prepare` with this configuration first, or set data.prepared.use=auto."
            )
        return None
    index = index_copy(shard_paths(folder), table, source)
    _check_freshness(folder, manifest, table, index, is_required=data.prepared.use == "require")
    if not index.has.any():
        return None
    logger.info(
        "%s of %s images come from the resized copy in %s (short side %s pixels).",
        *(f"{index.has.sum():,}", f"{len(table):,}", folder, manifest.short_side),
    )
    return PreparedCopy(folder, manifest.short_side, table, index)


def _choose_copy(data: DataSettings) -> tuple[Path, Manifest | None]:
    """The copy with the configured short side, else with the smallest that is enough; those that do not fit are named.

    Where none fits, the folder in which one was looked for, and None.
    """
    fitting, reasons = [], []
    for folder in candidate_folders(data):
        manifest = read_manifest(folder)
        if manifest is None or not shard_paths(folder):
            if data.prepared.folder:
                reasons.append(f"data.prepared.folder is {folder}, which holds no resized copy.")
            continue
        if why := _mismatch(manifest, data):
            reasons.append(f"The resized copy in {folder} is stale, and not used: {why}.")
        else:
            fitting.append((manifest.short_side != wanted_short_side(data), manifest.short_side, folder, manifest))
    if not fitting:
        for reason in reasons:
            logger.warning("%s Run `roadwork prepare` to make one that fits; the photos are read until then.", reason)
        return wanted_folder(data), None
    is_other, short_side, folder, manifest = min(fitting, key=lambda found: found[:2])
    if is_other:
        logger.info("There is no resized copy of short side %s: %s's serves.", wanted_short_side(data), short_side)
    return folder, manifest


def _mismatch(manifest: Manifest, data: DataSettings) -> str:
    if manifest.dataset != dataset_key(data):
        return "it was made from another dataset"
    if not manifest.is_current:
        return f"it was made by reader version {manifest.reader}, and this is {READER_VERSION}, or in another format"
    if manifest.short_side < data.img_size:
        return f"its short side of {manifest.short_side} pixels is below data.img_size, {data.img_size}"
    return ""


def _check_freshness(
    folder: Path, manifest: Manifest, table: SampleTable, index: CopyIndex, *, is_required: bool
) -> None:
    unreadable = [
        manifest.unreadable.get(str(row_id)) == identity
        for row_id, identity in zip(table.ids, index.identities, strict=True)
    ]
    missing = index.is_missing & ~np.array(unreadable, dtype=bool)
    n_changed = int((missing & index.is_changed).sum())
    found = [
        (len(index.damaged), "shards are damaged"),
        (n_changed, "rows' photos have changed since"),
        (int(missing.sum()) - n_changed, "rows are not in it"),
    ]
    if not any(n for n, _ in found):
        return
    message = (
        f"The resized copy in {folder} is stale: {', '.join(f'{n:,} {what}' for n, what in found if n)}"
        f"{_first_missing(table, missing)}."
    )
    if is_required and missing.any():
        raise DataError(f"{message} data.prepared.use is require: run `roadwork prepare`, or set it to auto.")
    logger.warning("%s Those are read from the photos. Run `roadwork prepare` to bring it up to date.", message)


def _first_missing(table: SampleTable, missing: np.ndarray) -> str:
    if not missing.any():
        return ""
    row = int(np.argmax(missing))
    return f" (first {table.filenames[row] or table.ids[row]})"
