"""Whether the latest photos of all clients look like the training photos."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from torch import Tensor

from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import FACTS, Familiarity, judge, photo_facts

WINDOW = 256


class FamiliarityWindow:
    """Features of the latest `WINDOW` photos; the photos themselves are not kept."""

    def __init__(self, detector: Detector) -> None:
        self._reference = detector.reference
        self._latest: deque[tuple[np.ndarray | None, tuple[float, ...]]] = deque(maxlen=WINDOW)

    def add(self, pixels: Tensor, features: Tensor | None) -> None:
        """Notes a batch of photos (B, 3, S, S) uint8 and their features (B, D)."""
        for row, photo in enumerate(pixels):
            facts = photo_facts(photo, (math.nan, math.nan))  # the photo's own size is not known here
            self._latest.append((None if features is None else features[row].numpy(), facts))

    def clear(self) -> None:
        """Forgets all photos."""
        self._latest.clear()

    def judge(self) -> Familiarity:
        """The verdict on these photos; takes up to a second."""
        latest = self._latest.copy()
        features = [values for values, _ in latest if values is not None]
        facts = np.array([facts for _, facts in latest]).reshape(-1, len(FACTS))
        return judge(self._reference, np.stack(features) if features else None, facts)
