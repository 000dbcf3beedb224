"""The loss of a step: cross-entropy, or one that weighs its terms, on labels that may be soft."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from roadwork.settings import TrainingSettings


def training_loss(logits: Tensor, labels: Tensor, training: TrainingSettings) -> Tensor:
    """The mean over a batch, a scalar.

    Args:
        logits: (B, 2), of None and Roadwork.
        labels: (B,) integers, or (B, 2) soft labels that sum to 1.
        training: which loss, and its label smoothing.
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=training.label_smoothing)
