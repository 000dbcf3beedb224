"""How a time varies over repetitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Milliseconds over repetitions: the median, the 10th and 90th percentile, and the mean, which alone adds up."""

    median: float
    p10: float
    p90: float
    mean: float


def spread_ms(seconds: Sequence[float]) -> Spread:
    """The spread in milliseconds of times in seconds."""
    milliseconds = 1000 * np.asarray(seconds)
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    return Spread(float(median), float(p10), float(p90), float(milliseconds.mean()))
