"""The images of several datasets as one source."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from roadwork.data.images import FileImages, ImageEnds, ImageSource


class StackedImages:
    """Images of several sources, one after the other."""

    def __init__(self, parts: Sequence[ImageSource], sizes: Sequence[int]) -> None:
        self.parts = parts
        self.ends = np.cumsum(sizes)

    def find(self, row: int) -> tuple[ImageSource, int]:
        """The source that has a row, and the row's number there."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        return self.parts[part], int(row) - (int(self.ends[part - 1]) if part else 0)

    def read(self, row: int) -> bytes:
        part, own_row = self.find(row)
        return part.read(own_row)

    def read_ends(self, row: int) -> ImageEnds:
        part, own_row = self.find(row)
        return part.read_ends(own_row)


def stack_images(parts: Sequence[ImageSource], sizes: Sequence[int]) -> ImageSource:
    """One source with the images of all `parts`, of which each has so many rows; files stay files."""
    files = [part for part in parts if isinstance(part, FileImages)]
    if len(files) == len(parts):
        return FileImages(list(chain.from_iterable(part.paths for part in files)))
    return StackedImages(parts, sizes)
