"""Decoded images by row, their labels, and what becomes of those that cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from roadwork.data.images import ImageSource, UnreadableImageError, decode_image, quick_check
from roadwork.data.table import SampleTable
from roadwork.errors import DataError
from roadwork.progress import track

logger = logging.getLogger(__name__)



@dataclass(frozen=True)
class UnreadableImage:
    """Stands in a batch where an image could not be read; `collate` drops it and names it."""

    row: int
    reason: str


@dataclass
class UnreadableLedger:
    """Counts the unreadable images of a run, and ends it above the share that is allowed.

    Attributes:
        table: names the rows.
        max_share: of all rows, 0 to 1.
        reasons: row to reason.
    """

    table: SampleTable
    max_share: float
    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, found: Sequence[UnreadableImage]) -> None:
        """Notes unreadable images.

        Raises:
            DataError: more of them than `max_share`; all are listed.
        """
        new = {image.row: image.reason for image in found if image.row not in self.reasons}
        if not new:
            return
        self.reasons |= new
        share = len(self.reasons) / len(self.table)
        listed = "\n".join(f"  {self.table.filenames[r] or self.table.ids[r]}: {why}" for r, why in list(self.reasons.items())[:20])
        more = f"\n  ... and {len(self.reasons) - 20} more" if len(self.reasons) > 20 else ""
        message = f"{len(self.reasons)} of {len(self.table):,} images cannot be read ({share:.2%}):\n{listed}{more}"
        if share > self.max_share:
            raise DataError(
                f"{message}\nAllowed: {self.max_share:.2%} (data.max_unreadable). Mend or remove them, or raise the share to train without them."
            )
        logger.warning("%s\nThey are left out.", message)


class ImageStore:
    """Images of a table's rows, resized to (3, size, size) uint8: from RAM where they were loaded, else decoded."""

    def __init__(self, source: ImageSource, size: int) -> None:
        self.source = source
        self.size = size
        self.loaded: Tensor | None = None

    def get(self, row: int) -> Tensor | UnreadableImage:
        """(3, size, size) uint8 RGB of a row, or why there is none."""
        if self.loaded is not None:
            return self.loaded[row]
        try:
            return torch.from_numpy(decode_image(self.source.read(row), self.size).copy()).permute(2, 0, 1)
        except UnreadableImageError as error:
            return UnreadableImage(row, str(error))

    def find_unreadable(self, rows: np.ndarray) -> list[UnreadableImage]:
        """The images whose first and last bytes show that they are missing, cut off or no image."""
        with ThreadPoolExecutor(16) as pool:
            reasons = track(pool.map(lambda r: quick_check(self.source, r), rows.tolist()), len(rows), "Checking images")
            return [UnreadableImage(int(row), why) for row, why in zip(rows, reasons, strict=True) if why]

    def load_into_ram(self, rows: np.ndarray, n_rows: int) -> list[UnreadableImage]:
        """Decodes these rows into RAM once; gives those that cannot be decoded, which must not be asked for."""
        loaded = torch.zeros((n_rows, 3, self.size, self.size), dtype=torch.uint8)
        unreadable = []
        with ThreadPoolExecutor() as pool:
            images = track(pool.map(self.get, rows.tolist()), len(rows), "Reading images into RAM")
            for row, image in zip(rows.tolist(), images, strict=True):
                if isinstance(image, UnreadableImage):
                    unreadable.append(image)
                else:
                    loaded[row] = image
        self.loaded = loaded
        return unreadable


class RoadworkDataset(Dataset[dict[str, Any] | UnreadableImage]):
    """The images and labels of one split.

    An item is a dict: `image` (3, size, size) uint8, `label` 0 or 1, `index` the row of the whole table.
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
    """A batch of the readable items: `image` (B, 3, S, S) uint8, `label` and `index` (B,) int64; `unreadable` names the others."""
    readable = [item for item in items if not isinstance(item, UnreadableImage)]
    unreadable = [item for item in items if isinstance(item, UnreadableImage)]
    images = torch.stack([item["image"] for item in readable]) if readable else torch.empty(0)
    labels, index = (torch.tensor([item[key] for item in readable], dtype=torch.int64) for key in ("label", "index"))
    return {"image": images, "label": labels, "index": index, "unreadable": unreadable}
