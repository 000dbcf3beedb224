"""Counts of right and wrong decisions, made on the device that decided."""

from __future__ import annotations

import torch
from torch import Tensor

from roadwork.evaluation.metrics import mcc


def confusion_from(predictions: Tensor, labels: Tensor) -> Tensor:
    """The 2x2 counts of a batch, rows labels and columns predictions as in scikit-learn.

    Args:
        predictions: (B,) integers, 0 or 1.
        labels: (B,) integers, 0 or 1, on the same device.

    Returns:
        (2, 2) int64 on that device. A row with any other value is in no cell: the sum then falls short of B.
    """
    # Not bincount: on a GPU it makes the host wait for the largest value.
    classes = torch.arange(2, device=labels.device)
    is_label = labels[:, None] == classes
    is_predicted = predictions[:, None] == classes
    return (is_label[:, :, None] & is_predicted[:, None, :]).sum(dim=0)


def mcc_from_confusion(counts: Tensor) -> float:
    """Matthews correlation, -1 to 1, of 2x2 counts; 0 where labels or predictions are of a single class.

    Args:
        counts: (2, 2) integers, rows labels and columns predictions, on any device.
    """
    return float(mcc(counts.flatten().cpu().numpy()))
