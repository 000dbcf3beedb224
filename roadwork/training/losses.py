"""The loss of a step: cross-entropy, or one that weighs its terms, on labels that may be soft."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from roadwork.errors import DataError, WiringError
from roadwork.settings import TrainingSettings

N_CLASSES = 2


def training_loss(
    logits: Tensor, labels: Tensor, training: TrainingSettings, class_weights: Tensor | None = None
) -> Tensor:
    """The mean over a batch's rows, a scalar.

    With targets t (one-hot or soft, smoothed) and probabilities p, a row's loss is the sum over the classes c of

    - `cross_entropy`: -t_c log p_c,
    - `balanced`: -w_c t_c log p_c, so that a mixed row weighs by its mixture,
    - `focal`: see :func:`focal_loss`.

    Args:
        logits: (B, 2), of None and Roadwork.
        labels: (B,) integers, or (B, 2) soft labels that sum to 1.
        training: which loss, and its label smoothing.
        class_weights: (2,) w of the balanced loss, as :func:`balancing_weights` gives them.

    Raises:
        WiringError: the balanced loss has no weights.
    """
    logits = logits.float()
    if training.loss == "cross_entropy":
        return F.cross_entropy(logits, labels, label_smoothing=training.label_smoothing)
    targets = F.one_hot(labels, N_CLASSES) if labels.dim() == 1 else labels
    targets = targets.to(logits.dtype)
    if training.loss == "focal":
        smoothed = targets * (1 - training.label_smoothing) + training.label_smoothing / N_CLASSES
        return focal_loss(logits, smoothed, training.focal_gamma)
    if class_weights is None:
        raise WiringError("training.loss is balanced, but the classes have no weights: they are set as a fit starts.")
    # As soft labels: for integers torch divides by the weights of the batch, which differ from batch to batch.
    return F.cross_entropy(logits, targets, weight=class_weights, label_smoothing=training.label_smoothing)


def focal_loss(logits: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """The mean over rows of -sum_c t_c (1 - p_c)^gamma log p_c, a scalar.

    For a label that is certain it is equation 4 of Lin et al. 2017 (arXiv:1708.02002). For a soft one it is the mean of
    that over the classes, weighted by the label, as mixup's authors mix losses (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        logits: (B, 2).
        targets: (B, 2) that sum to 1.
        gamma: 0 or more; 0 gives cross-entropy.
    """
    log_p = F.log_softmax(logits, dim=1)
    # log (1 - p_c) is the other class's log p: exact, and with a gradient, where p rounds to 1.
    return -(targets * (gamma * log_p.flip(1)).exp() * log_p).sum(dim=1).mean()


def balancing_weights(loader: DataLoader[Any]) -> Tensor:
    """(2,) float32 weights of None and Roadwork under which both weigh the same over an epoch, and 1 on the average.

    A class's weight is 1 / (2 x its share of the rows *as they are drawn*: by the sampler's weights, where it has any).

    Args:
        loader: of training; its dataset has `labels` (N,) of 0 and 1.

    Raises:
        DataError: it has no labels, or draws one class alone.
    """
    labels = getattr(loader.dataset, "labels", None)
    if labels is None:
        raise DataError(
            "training.loss is balanced, which needs a training set with `labels` (N,), one a row. Give it such labels, "
            "or use training.loss=cross_entropy."
        )
    drawn = np.asarray(getattr(loader.sampler, "weights", np.ones(len(labels))), dtype=np.float64)
    totals = np.bincount(np.asarray(labels, dtype=np.int64), drawn, N_CLASSES)
    if not totals.all():
        raise DataError(
            "training.loss is balanced, but training draws rows of one class alone (weights of None and Roadwork: "
            f"{totals[0]:g}, {totals[1]:g}). Check the labels, the splits and data.gps_sampling.weight_brackets."
        )
    return torch.from_numpy(totals.sum() / (N_CLASSES * totals)).float()
