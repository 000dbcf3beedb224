"""The clauses of StreetVision's contract on what a network answers, and how fast."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from roadwork.export.consumer import FAILED, OK, ContractCheck
from roadwork.export.parity import TIE
from roadwork.inference.detector import Detector

ANSWER_WITHIN_S = 9.0
# float32 rounds the two logits on their own: in parts of a logit where that is above 1.
_ROUNDING = 1e-5
_NOISE_IMAGES = 8
_EXPORT_AGAIN = "export again with `roadwork export RUN --out DIR`, which folds the calibration into such a head"


def check_head(detector: Detector) -> ContractCheck:
    """Whether the logits are (-d / 2, d / 2), for pictures of noise: a head's form does not depend on what it sees."""
    size = detector.preprocessing.size
    noise = torch.randint(0, 256, (_NOISE_IMAGES, 3, size, size), generator=torch.Generator().manual_seed(0))
    logits = detector.logits(noise.to(torch.uint8)).double()
    sums = (logits.sum(1).abs() / logits.abs().amax(1).clamp(min=1)).max().item()
    return ContractCheck(
        "antisymmetric head",
        OK if sums <= _ROUNDING else FAILED,
        f"the two logits sum to at most {sums:.1e} (in parts of a logit above 1)",
        f"{_ROUNDING:.0e}: one is the other's negative, so that softmax and sigmoid decide alike",
        _EXPORT_AGAIN,
    )


def check_sigmoid(logits: Tensor) -> ContractCheck:
    """Whether a softmax and 4.45.2's sigmoid decide alike on photos with folded logits (N, 2)."""
    softmax = logits.double().softmax(1)[:, 1]
    sigmoid = logits.double()[:, 1].sigmoid()
    near = torch.maximum((softmax - 0.5).abs(), (sigmoid - 0.5).abs()) <= TIE
    n_changed = int((((softmax > 0.5) != (sigmoid > 0.5)) & ~near).sum())
    return ContractCheck(
        "softmax and sigmoid",
        FAILED if n_changed else OK,
        f"{n_changed} of {len(logits)} decisions differ",
        f"none, but for scores within {TIE:.0e} of 0.5",
        _EXPORT_AGAIN,
    )


def check_latency(seconds: np.ndarray, where: str) -> ContractCheck:
    """Whether calls with a single 12-megapixel photo, which took `seconds` (N,), end in time."""
    return ContractCheck(
        f"latency, {where}",
        OK if seconds.max() <= ANSWER_WITHIN_S else FAILED,
        f"median {np.median(seconds):.2f} s, worst {seconds.max():.2f} s of {len(seconds)} calls with one photo of "
        "12 megapixels, on this machine's CPU",
        f"{ANSWER_WITHIN_S:g} s for each",
        "train a smaller network or at a smaller data.img_size, or mine on a faster machine",
    )


def unanswered(reason: str) -> ContractCheck:
    """The check that stands for those that were not come to."""
    return ContractCheck("answers", FAILED, reason, "a folder and photos that can be read", "mend what is named above")
