"""Reads the resized copy of a dataset."""

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
    """The content of a copy for a table of N rows.

    Attributes:
        shards: the shards that can be opened.
        damaged: the error of each other shard, by path.
        identities: current identities of the rows' photos.
        record: (N,) index of each row's image, counted through all `shards`; -1 if missing or outdated.
        is_changed: (N,) bool, rows whose photos have changed since they were resized.
    """

    shards: list[Shard]
    damaged: dict[Path, str]
    identities: list[str]
    record: np.ndarray
    is_changed: np.ndarray

    @property
    def has(self) -> np.ndarray:
        """(N,) bool, rows with an up-to-date image in the copy."""
        held: np.ndarray = self.record >= 0
        return held

    @property
    def shard(self) -> np.ndarray:
        """(N,) index in `shards` of the shard with each row's image; -1 if there is none."""
        ends = np.cumsum([len(shard) for shard in self.shards])
        position: np.ndarray = np.where(self.has, np.searchsorted(ends, self.record, side="right"), -1)
        return position

    @property
    def is_missing(self) -> np.ndarray:
        """(N,) bool, rows whose photo exists but whose image is missing or outdated."""
        missing: np.ndarray = _is_readable(self.identities) & ~self.has
        return missing

    def unused_shards(self, table: SampleTable) -> list[Path]:
        """Shards without an up-to-date image.

        Shards with images of currently unreadable photos are kept: such a photo may become readable again.
        """
        used = set(self.shard.tolist())
        unreadable = {row for row, identity in zip(table.ids, self.identities, strict=True) if identity == UNREADABLE}
        return [
            shard.path
            for position, shard in enumerate(self.shards)
            if position not in used and unreadable.isdisjoint(shard.ids)
        ]


def index_copy(paths: Sequence[Path], table: SampleTable, source: ImageSource) -> CopyIndex:
    """Index of the table's rows in the shards, matched by id and by the photo's current identity."""
    shards, damaged = [], {}
    for path in paths:
        try:
            shards.append(open_shard(path))
        except DamagedError as error:
            damaged[path] = str(error)
    identities = identify_images(source, len(table))
    return _match_rows(shards, damaged, table, identities)


def identify_images(source: ImageSource, n: int) -> list[str]:
    """`identify_image` of each row; in threads, because network file systems have a high latency."""
    found: list[str] = []
    with ThreadPoolExecutor(_N_THREADS) as pool:
        chunks = (range(start, min(n, start + _CHUNK_ROWS)) for start in range(0, n, _CHUNK_ROWS))
        identities = (name for rows in chunks for name in pool.map(lambda row: identify_image(source, row), rows))
        found.extend(track(identities, n, "Checking photos"))
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
    """Resized images of a table's rows; can be pickled for worker processes.

    It holds no open file, so any thread or process can read images by their offsets.

    Attributes:
        folder: folder of the copy.
        short_side: shorter side of the images in pixels.
        has: (N,) bool, rows with an up-to-date image.
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
        # For a row without an image these values belong to another image, and are never used.
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
        """(size, size, 3) uint8 RGB of a row; None if the copy lacks it and the photo must be read instead."""
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
            "The resized copy is damaged: %s. Reading the affected images from the photos. "
            "`roadwork prepare --verify` finds and repairs all damage.",
            error,
        )


def find_copy(data: DataSettings, table: SampleTable, source: ImageSource) -> PreparedCopy | None:
    """The copy that training reads; None if `data.prepared.use` is never, or no copy fits.

    Raises:
        DataError: `data.prepared.use` is require, and no copy fits.
    """
    if data.prepared.use == "never":
        return None
    folder, manifest = _choose_copy(data)
    if manifest is None:
        if data.prepared.use == "require":
            raise DataError(
                f"data.prepared.use is require, but no resized copy in {folder} fits. "
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
    """Folder and manifest of the copy with the configured short side, else of the smallest sufficient one.

    If no copy fits, logs why, and returns the folder of the configured copy and None.
    """
    fitting, reasons = [], []
    for folder in candidate_folders(data):
        manifest = read_manifest(folder)
        if manifest is None or not shard_paths(folder):
            if data.prepared.folder:
                reasons.append(f"data.prepared.folder is {folder}, which holds no resized copy.")
            continue
        if why := _mismatch(manifest, data):
            reasons.append(f"Ignoring the resized copy in {folder}: {why}.")
        else:
            fitting.append((manifest.short_side != wanted_short_side(data), manifest.short_side, folder, manifest))
    if not fitting:
        for reason in reasons:
            logger.warning("%s Reading the photos instead. Run `roadwork prepare` to create a copy that fits.", reason)
        return wanted_folder(data), None
    is_other, short_side, folder, manifest = min(fitting, key=lambda found: found[:2])
    if is_other:
        logger.info("No resized copy with short side %s; using %s.", wanted_short_side(data), short_side)
    return folder, manifest


def _mismatch(manifest: Manifest, data: DataSettings) -> str:
    if manifest.dataset != dataset_key(data):
        return "it was made from another dataset"
    if not manifest.is_current:
        return f"it has reader version {manifest.reader} (now {READER_VERSION}), or another format or quality"
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
        (n_changed, "photos have changed"),
        (int(missing.sum()) - n_changed, "rows are missing"),
    ]
    if not any(n for n, _ in found):
        return
    message = (
        f"The resized copy in {folder} is stale: {', '.join(f'{n:,} {what}' for n, what in found if n)}"
        f"{_first_missing(table, missing)}."
    )
    if is_required and missing.any():
        raise DataError(f"{message} data.prepared.use is require: run `roadwork prepare`, or set it to auto.")
    logger.warning("%s Reading these from the photos. Run `roadwork prepare` to update the copy.", message)


def _first_missing(table: SampleTable, missing: np.ndarray) -> str:
    if not missing.any():
        return ""
    row = int(np.argmax(missing))
    return f" (first {table.filenames[row] or table.ids[row]})"
