"""The algebra between two logits and a decision: margin, probability, folding, threshold.

With logits z of None and Roadwork, the margin is d = z_roadwork - z_none. At a temperature T the probability of
Roadwork is sigmoid(d / T), and a probability that reaches the threshold t is decided as Roadwork.

Folding moves T and t into the logits: they become (-m / 2, m / 2) with m = d / T - logit(t). Their softmax is above
0.5 exactly where the probability is above t, and so is a sigmoid of the second logit alone.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor

DEFAULT_THRESHOLD = 0.5

# No calibration set supports a probability closer than 1e-13 to 0 or 1, and closer to 1 float64 has too few numbers.
# With this limit every threshold has a finite logit, and every loss is finite.
MARGIN_LIMIT = 30.0

Array = TypeVar("Array", np.ndarray, Tensor)


def margin(logits: Array) -> Array:
    """(...) logit of Roadwork minus logit of None, from logits (..., 2)."""
    difference: Array = logits[..., 1] - logits[..., 0]
    return difference


def probability(margins: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N,) probability of Roadwork at a temperature, strictly between 0 and 1, from margins (N,).

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017.
    """
    probabilities: np.ndarray = expit(np.clip(margins / temperature, -MARGIN_LIMIT, MARGIN_LIMIT))
    return probabilities


def softmax_roadwork(logits: np.ndarray) -> np.ndarray:
    """(N,) softmax probability of Roadwork in float64, from logits (N, 2); it can be exactly 0 or 1."""
    margins = margin(logits)
    smaller = np.exp(-np.abs(margins))  # an exponent that is never positive cannot overflow
    probabilities: np.ndarray = np.where(margins >= 0, 1.0, smaller) / (1.0 + smaller)
    return probabilities


def decide(probabilities: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """(N,) int64 decisions: 1 (Roadwork) where the probability reaches the threshold."""
    return (probabilities >= threshold).astype(np.int64)


def antisymmetric(margins: Tensor) -> Tensor:
    """(..., 2) logits (-d / 2, d / 2) with the given margins d (...)."""
    return torch.stack([-margins / 2, margins / 2], dim=-1)


def fold(logits: Tensor, temperature: float, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """(..., 2) antisymmetric logits with temperature and threshold folded in, from logits (..., 2)."""
    return antisymmetric(margin(logits) / temperature - _log_odds(threshold))


def unfold(folded_logits: Tensor, threshold: float) -> Tensor:
    """(...) float64 calibrated probability of Roadwork behind folded logits (..., 2)."""
    return torch.sigmoid(margin(folded_logits).double() + _log_odds(threshold))


def folded_score(margins: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """(N,) softmax score of Roadwork that a folded network gives, from margins (N,) of the network before folding."""
    scores: np.ndarray = expit(margins / temperature - logit(threshold))
    return scores


def unfold_score(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) calibrated probability behind softmax scores (N,) of a folded network.

    The logits of 0 and 1 are infinite; their probabilities are 0 and 1 again.
    """
    probabilities: np.ndarray = expit(logit(scores.astype(np.float64)) + logit(threshold))
    return probabilities


def _log_odds(threshold: float) -> float:
    return math.log(threshold / (1 - threshold))
