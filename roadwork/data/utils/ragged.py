"""Many short ranges of unequal length as flat arrays, in batches that fit memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`counts[i]` whole numbers from `starts[i]` on, for each i in turn."""
    ends = np.cumsum(counts)
    numbers: np.ndarray = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - ends + counts, counts)
    return numbers


def batches(counts: np.ndarray, limit: int) -> Iterator[slice]:
    """Slices that together hold every item, of about `limit` counts; an item above the limit begins its own."""
    cuts = np.flatnonzero(np.diff(np.cumsum(counts) // limit)) + 1
    for start, stop in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        if stop > start:
            yield slice(int(start), int(stop))
