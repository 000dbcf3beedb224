"""The row of the wiring table on a loss other than cross-entropy: what the steps computed, against a reference."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from roadwork.preflight.observations import Observations, WireRow
from roadwork.settings import TrainingSettings

TOLERANCE = 1e-4
CHANCE = 5.0  # standard deviations that the draws of an epoch may lie off


def loss_rows(seen: Observations) -> Iterator[WireRow]:
    """On the logits and labels of the batches that trained, worked out again row by row in float64."""
    training = seen.trainer.settings.training
    if training.loss == "cross_entropy":
        return
    record = seen.probe.train
    weights = seen.trainer.module.class_weights
    used = [1.0, 1.0] if weights is None else weights.tolist()
    batches = zip(record.logits, record.labels, strict=True)
    expected = [_reference(x.double().numpy(), _soft(y), training, used) for x, y in batches]
    difference = max(abs(came - wanted) for came, wanted in zip(record.criteria, expected, strict=True))
    observed = (
        f"on {len(expected)} batches the training loss differs from the {training.loss} loss of their logits and "
        f"labels by at most {difference:.0e}"
    )
    works = difference <= TOLERANCE * max(1.0, *expected)
    if training.loss == "balanced":
        share = float(seen.datamodule.datasets["train"].labels[seen.next_epoch].mean())
        weighed = share * used[1]
        observed += (
            f"; an epoch draws {share:.1%} Roadwork, weighed {used[1]:.2f} to {used[0]:.2f}: {weighed:.0%} of its loss"
        )
        allowed = used[1] * CHANCE * np.sqrt(share * (1 - share) / max(1, len(seen.next_epoch)))
        works &= bool(abs(weighed - 0.5) <= allowed) and abs(used[0] * (1 - share) + weighed - 1) <= 2 * allowed
    yield WireRow(
        f"loss ({training.loss})",
        observed,
        works,
        "training_step must give training_loss the settings, and weights of the rows as they are drawn",
    )


def _soft(labels: torch.Tensor) -> np.ndarray:
    soft: np.ndarray = np.eye(2)[labels.numpy()] if labels.dim() == 1 else labels.double().numpy()
    return soft


def _reference(logits: np.ndarray, soft: np.ndarray, training: TrainingSettings, weights: list[float]) -> float:
    losses = []
    for row, label in zip(logits, soft, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        smooth = label * (1 - training.label_smoothing) + training.label_smoothing / 2
        factors = (1 - p) ** training.focal_gamma if training.loss == "focal" else weights
        losses.append(-float(np.sum(factors * smooth * np.log(np.maximum(p, 1e-300)))))
    return float(np.mean(losses))
