"""Whether a network that was merged, folded, converted or read back still says what the run's own network says."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from roadwork.calibration.probabilities import to_probability
from roadwork.errors import WiringError
from roadwork.export.facts import ExportFacts

LOGIT_LIMIT = 1e-4
PROBABILITY_LIMIT = 1e-4
# Nearer to the threshold than this, rounding may decide.
TIE = 1e-5
# Pictures at a time: a large network needs much memory for each.
_BATCH = 8


@dataclass(frozen=True)
class Parity:
    """What was compared, and how far apart it was.

    Attributes:
        what: in a few words.
        difference: the largest.
        limit: that it kept to.
    """

    what: str
    difference: float
    limit: float


def network_logits(network: nn.Module, inputs: Tensor) -> Tensor:
    """(B, 2) float64 logits of a network for what it takes, (B, 3, S, S)."""
    with torch.inference_mode():
        parts = (inputs[start : start + _BATCH] for start in range(0, len(inputs), _BATCH))
        return torch.cat([network(pixel_values=part).logits for part in parts]).double()


def own_probabilities(logits: Tensor, temperature: float) -> np.ndarray:
    """(B,) calibrated probability of Roadwork for the logits (B, 2) of the run's own network."""
    return to_probability((logits[:, 1] - logits[:, 0]).numpy(), temperature)


def folded_as_it_should_be(logits: Tensor, facts: ExportFacts) -> Tensor:
    """(B, 2) what a folded network must say where the run's own says `logits`: (-d / 2, d / 2)."""
    shift = math.log(facts.threshold / (1 - facts.threshold))
    half = ((logits[:, 1] - logits[:, 0]) / facts.temperature - shift) / 2
    return torch.stack([-half, half], dim=1)


def compare_logits(what: str, logits: Tensor, expected: Tensor, temperature: float = 1.0) -> Parity:
    """Holds logits (B, 2) against those expected.

    Differences are in parts of the larger of 1, 1 / temperature and the logit: float32 has seven digits, and folding a
    temperature below 1 stretches the last of them with the others.

    Args:
        what: is compared.
        logits: of a network.
        expected: of another, or by a formula.
        temperature: that is folded into both.

    Raises:
        WiringError: they are farther apart than rounding explains.
    """
    difference = float(((logits - expected).abs() / expected.abs().clamp(min=max(1.0, 1 / temperature))).max())
    if not difference < LOGIT_LIMIT:  # a NaN is not below it, either
        raise WiringError(
            f"{what}: logits moved by up to {difference:.1e}; allowed: below {LOGIT_LIMIT:.0e}. Nothing was exported. "
            "This should not happen: please report the model, the adapter and the versions in the run's manifest.json."
        )
    return Parity(what, difference, LOGIT_LIMIT)


def compare_answers(what: str, probabilities: np.ndarray, expected: np.ndarray, threshold: float) -> Parity:
    """Holds calibrated probabilities (N,), and the decisions that follow from them, against the run's own.

    Raises:
        WiringError: a probability moved, or a decision changed that was no tie.
    """
    difference = float(np.abs(probabilities - expected).max())
    changed = (probabilities >= threshold) != (expected >= threshold)
    changed &= np.abs(expected - threshold) > TIE
    if not difference < PROBABILITY_LIMIT or changed.any():
        raise WiringError(
            f"{what}: probabilities moved by up to {difference:.1e} (allowed: below {PROBABILITY_LIMIT:.0e}), and "
            f"{int(changed.sum())} of {len(expected)} decisions changed (allowed: none). Nothing was exported. "
            "This should not happen: please report the model, the adapter and the versions in the run's manifest.json."
        )
    return Parity(what, difference, PROBABILITY_LIMIT)
