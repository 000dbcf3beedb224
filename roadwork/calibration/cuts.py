"""Every threshold that decides differently, scored exactly."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from roadwork.calibration.priors import at_prior
from roadwork.evaluation.metrics import mcc

# MCCs of different counts that are equal on paper differ by less in float64.
_EQUAL = 1e-12


class Cuts:
    """The cut points of a set of rows: one below each distinct probability, and one above the largest.

    A cut's threshold lies half-way between its two neighbours in logits, where a shift of all logits shifts it alike;
    the first and the last lie 1 beyond.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.

    Attributes:
        thresholds: (K,) rising; `probability >= threshold` is Roadwork.
        counts: (K, 4) confusion counts tn, fp, fn, tp.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        distinct, positions = np.unique(probabilities, return_inverse=True)
        logits = logit(distinct)
        between = expit((logits[:-1] + logits[1:]) / 2)
        # Neighbours in float64 have nothing between them; the upper one separates them, too.
        between = np.where((between > distinct[:-1]) & (between <= distinct[1:]), between, distinct[1:])
        self.thresholds = np.concatenate([[expit(logits[0] - 1)], between, [expit(logits[-1] + 1)]])
        self._widths = np.concatenate([[0.0], np.diff(logits), [0.0]])
        rows = np.bincount(2 * positions + labels, minlength=2 * len(distinct)).reshape(-1, 2)
        below = np.concatenate([np.zeros((1, 2), dtype=np.int64), np.cumsum(rows, axis=0)])
        above = below[-1] - below
        self.counts = np.stack([below[:, 0], above[:, 0], below[:, 1], above[:, 1]], axis=-1)

    def best(self, prior: float | None) -> int:
        """Number of the cut with the highest MCC at a prior; of equals, the one in the widest gap of logits."""
        scores = mcc(at_prior(self.counts, prior))
        equals = np.flatnonzero(scores >= scores.max() - _EQUAL)
        return int(equals[np.argmax(self._widths[equals])])
