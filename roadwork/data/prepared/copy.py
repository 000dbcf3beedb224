"""The resized copy of a dataset, as training reads it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from roadwork.data.images import READER_VERSION, ImageSource, UnreadableImageError, decode_image
from roadwork.data.prepared.folder import (
    Manifest,
    candidate_folders,
    read_manifest,
    shard_paths,
    wanted_folder,
    wanted_short_side,
)
from roadwork.data.prepared.index import CopyIndex, index_copy
from roadwork.data.prepared.shards import DamagedError, key_checksum, read_jpeg
from roadwork.data.source import dataset_key
from roadwork.data.table import SampleTable
from roadwork.errors import DataError
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)


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
    folder, manifest = _choose(data)
    if manifest is None:
        if data.prepared.use == "require":
            raise DataError(
                f"data.prepared.use is require, and no resized copy in {folder} fits. "
                "Run `roadwork prepare` with this configuration first, or set data.prepared.use=auto."
            )
        return None
    index = index_copy(shard_paths(folder), table, source)
    _say_what_is_stale(folder, manifest, table, index, is_required=data.prepared.use == "require")
    if not index.has.any():
        return None
    logger.info(
        "%s of %s images come from the resized copy in %s (short side %s pixels).",
        *(f"{index.has.sum():,}", f"{len(table):,}", folder, manifest.short_side),
    )
    return PreparedCopy(folder, manifest.short_side, table, index)


def _choose(data: DataSettings) -> tuple[Path, Manifest | None]:
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
        if why := _why_unfit(manifest, data):
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


def _why_unfit(manifest: Manifest, data: DataSettings) -> str:
    if manifest.dataset != dataset_key(data):
        return "it was made from another dataset"
    if not manifest.is_current:
        return f"it was made by reader version {manifest.reader}, and this is {READER_VERSION}, or in another format"
    if manifest.short_side < data.img_size:
        return f"its short side of {manifest.short_side} pixels is below data.img_size, {data.img_size}"
    return ""


def _say_what_is_stale(
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
        f"{_first(table, missing)}."
    )
    if is_required and missing.any():
        raise DataError(f"{message} data.prepared.use is require: run `roadwork prepare`, or set it to auto.")
    logger.warning("%s Those are read from the photos. Run `roadwork prepare` to bring it up to date.", message)


def _first(table: SampleTable, missing: np.ndarray) -> str:
    if not missing.any():
        return ""
    row = int(np.argmax(missing))
    return f" (first {table.filenames[row] or table.ids[row]})"
