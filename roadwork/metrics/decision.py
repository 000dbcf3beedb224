"""Probabilities from logits and a temperature, and how well they keep what they promise."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

# No calibration set supports a probability closer than 1e-13 to 0 or 1, and nearer to 1 float64 runs out of numbers
# in between: every threshold then has a finite logit, and every loss is finite.
LIMIT = 30.0
ECE_BINS = 15


def to_probability(differences: np.ndarray, temperature: float) -> np.ndarray:
    """(N,) probability of Roadwork at a temperature, strictly between 0 and 1, from logit differences (N,).

    Temperature scaling: Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, ICML 2017.
    """
    probability: np.ndarray = expit(np.clip(differences / temperature, -LIMIT, LIMIT))
    return probability


def score_probabilities(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """NLL, Brier score and ECE by name, of labels (N,) and probabilities (N,) strictly between 0 and 1."""
    right = np.where(labels == 1, probabilities, 1 - probabilities)
    return {
        "nll": float(-np.log(right).mean()),
        "brier": float(((probabilities - labels) ** 2).mean()),
        "ece": expected_calibration_error(labels, probabilities),
    }


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = ECE_BINS) -> float:
    """Mean distance of the share of Roadwork from the mean probability, over bins that hold equally many rows.

    Equal probabilities share a bin, so that the order of rows does not matter. (Nixon et al., Measuring calibration in
    deep learning, CVPR workshops 2019, on why bins of equal mass.)
    """
    numbers = equal_mass_bins(probabilities, bins)
    sums = np.bincount(numbers, weights=labels - probabilities, minlength=bins)
    return float(np.abs(sums).sum() / len(labels))


def equal_mass_bins(probabilities: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """(N,) int64 bin, from 0, of each probability (N,): as many rows in each, as far as equal ones allow."""
    edges = np.quantile(probabilities, np.linspace(0, 1, bins + 1))[1:-1]
    return np.searchsorted(edges, probabilities, side="right")
