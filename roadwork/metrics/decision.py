"""From two logits to a decision: margin, probability, folding, threshold.

The margin of logits z is d = z_roadwork - z_none. At temperature T the probability of Roadwork is sigmoid(d / T). The
decision is Roadwork if this probability is at least the threshold t.

Folding moves T and t into the logits: they become (-m / 2, m / 2) with m = d / T - logit(t). The softmax of the folded
logits and the sigmoid of the second one are both above 0.5 if and only if the probability is above t.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from scipy.special import expit, logit
from torch import Tensor

DEFAULT_THRESHOLD = 0.5

# Keeps probabilities at least 1e-13 away from 0 and 1: no calibration set supports more extreme ones, and float64 is
# too coarse near 1. So every threshold has a finite logit, and every loss is finite.
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
    probabilities: np.ndarray = expit(margin(logits))
    return probabilities


def decide(probabilities: np.ndarray, threshold: float = DEFAULT_THRESHOLD) -> np.ndarray:
    """(N,) int64 decisions: 1 (Roadwork) if the probability is at least the threshold."""
    return (probabilities >= threshold).astype(np.int64)


def antisymmetric(margins: Tensor) -> Tensor:
    """(..., 2) logits (-d / 2, d / 2) with the given margins d (...)."""
    return torch.stack([-margins / 2, margins / 2], dim=-1)


def fold(logits: Tensor, temperature: float, threshold: float = DEFAULT_THRESHOLD) -> Tensor:
    """(..., 2) antisymmetric logits with temperature and threshold folded in, from logits (..., 2)."""
    return antisymmetric(margin(logits) / temperature - _log_odds(threshold))


def unfold(folded_logits: Tensor, threshold: float) -> Tensor:
    """(...) float64 calibrated probability of Roadwork, from folded logits (..., 2)."""
    return torch.sigmoid(margin(folded_logits).double() + _log_odds(threshold))


def folded_score(margins: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """(N,) softmax score of Roadwork after folding, from margins (N,) before folding."""
    scores: np.ndarray = expit(margins / temperature - logit(threshold))
    return scores


def unfold_score(scores: np.ndarray, threshold: float) -> np.ndarray:
    """(N,) calibrated probability of Roadwork, from softmax scores (N,) of a folded network; 0 and 1 stay 0 and 1."""
    probabilities: np.ndarray = expit(logit(scores.astype(np.float64)) + logit(threshold))
    return probabilities


def _log_odds(threshold: float) -> float:
    return math.log(threshold / (1 - threshold))
