"""What `roadwork prepare` has to do, said before it does it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roadwork.data.images import ImageSource
from roadwork.data.prepared.folder import Manifest, shard_paths, wanted_folder
from roadwork.data.prepared.index import CopyIndex, index_copy
from roadwork.data.prepared.resize import resize_photo
from roadwork.data.table import SampleTable
from roadwork.errors import DataError
from roadwork.settings import DataSettings

logger = logging.getLogger(__name__)

_N_SAMPLED = 16
# An image's id, identity and checksum in its shard, and the spread of a sample's mean.
_MARGIN = 1.1


@dataclass(frozen=True)
class CopyPlan:
    """A copy that is to be made, or to be brought up to date.

    Attributes:
        folder: of the copy.
        manifest: what it is of, and how it is made.
        table, source: the dataset.
        index: what the copy holds already.
        rows: those to do.
        image_bytes: bytes a resized image is likely to take, from a sample.
        free_bytes: on the disk.
    """

    folder: Path
    manifest: Manifest
    table: SampleTable
    source: ImageSource
    index: CopyIndex
    rows: np.ndarray
    image_bytes: int
    free_bytes: int

    @property
    def needed_bytes(self) -> int:
        """What the rows to do are likely to take on the disk."""
        return round(_MARGIN * self.image_bytes * len(self.rows))

    def check_space(self) -> None:
        """Whether the copy fits on its disk.

        Raises:
            DataError: it does not.
        """
        if self.needed_bytes > self.free_bytes:
            raise DataError(
                f"The copy needs about {format_bytes(self.needed_bytes)} more, and the disk of {self.folder} has "
                f"{format_bytes(self.free_bytes)} free. Make room, name a folder on another disk with "
                "data.prepared.folder=DIR, or make smaller images with data.prepared.short_side=PIXELS."
            )


def format_bytes(n: int) -> str:
    """Bytes for people to read, such as 1.3 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if n >= unit:
            return f"{n / unit:,.1f} {name}"
    return f"{n / 1e3:,.1f} kB"


def plan_copy(data: DataSettings, manifest: Manifest, table: SampleTable, source: ImageSource) -> CopyPlan:
    """Finds the rows whose picture is missing, or not of the photo of today, and what they will take.

    Shards that are damaged, or of no more use, are removed and named.
    """
    folder = wanted_folder(data)
    index = index_copy(shard_paths(folder), table, source)
    for path, reason in index.damaged.items():
        logger.warning("%s: its images are made again.", reason)
        path.unlink()
    unused = index.unused_shards(table)
    for path in unused:
        path.unlink()
    if unused:
        logger.info("%s shards were removed: their photos have changed, or are in the dataset no more.", len(unused))
    rows = np.flatnonzero(~index.has)
    return CopyPlan(
        folder, manifest, table, source, index, rows,
        image_bytes=_sample_bytes(source, rows, manifest.short_side),
        free_bytes=shutil.disk_usage(folder).free,
    )  # fmt: skip


def _sample_bytes(source: ImageSource, rows: np.ndarray, short_side: int) -> int:
    """Mean bytes of some resized photos, spread over `rows`; 0 where none can be read."""
    sampled = rows[np.linspace(0, len(rows) - 1, min(len(rows), _N_SAMPLED)).astype(int)]
    sizes = [len(resize_photo(source, row, short_side).jpeg) for row in sampled.tolist()]
    return round(float(np.mean([size for size in sizes if size] or [0])))
