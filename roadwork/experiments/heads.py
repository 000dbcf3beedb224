"""Small heads on frozen features, several trained together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class HeadSettings:
    """How each head is trained; the same in all conditions.

    Attributes:
        hidden: width of the hidden layer.
        steps: optimizer steps.
        batch_size: rows per step.
        lr: learning rate of AdamW, with cosine decay to 0.
        weight_decay: of AdamW.
    """

    hidden: int = 128
    steps: int = 500
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05


@dataclass(frozen=True)
class Phase:
    """A phase of the training.

    Attributes:
        batches: (K, T, B) int64 rows of each of K heads in each of T steps.
        last_layer_only: whether the hidden layer is frozen.
    """

    batches: np.ndarray
    last_layer_only: bool = False


class Heads(nn.Module):
    """K heads with one hidden layer; each standardises the features by its own statistics.

    Args:
        centers: (K, D), subtracted from the inputs.
        scales: (K, D), divisors of the centred inputs.
        seeds: of the K heads' initial weights.
        hidden: width of the hidden layer.
    """

    def __init__(self, centers: np.ndarray, scales: np.ndarray, seeds: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.centers = torch.from_numpy(centers.astype(np.float32))[:, None]
        self.scales = torch.from_numpy(scales.astype(np.float32))[:, None]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw(fan_in: int, *shape: int) -> nn.Parameter:  # like nn.Linear
            bound = 1 / math.sqrt(fan_in)
            return nn.Parameter(
                torch.stack([torch.empty(shape).uniform_(-bound, bound, generator=g) for g in generators])
            )

        n_features = centers.shape[1]
        self.hidden_weight = draw(n_features, n_features, hidden)
        self.hidden_bias = draw(n_features, 1, hidden)
        self.last_weight = draw(hidden, hidden, 1)
        self.last_bias = draw(hidden, 1, 1)

    def forward(self, features: Tensor, head: int | slice = slice(None)) -> Tensor:
        """Logits of Roadwork: (K, B) from (K, B, D) for all heads, or (B,) from (B, D) for one."""
        inputs = (features - self.centers[head]) / self.scales[head]
        activations = F.relu(inputs @ self.hidden_weight[head] + self.hidden_bias[head])
        return (activations @ self.last_weight[head] + self.last_bias[head]).squeeze(-1)


def train_heads(
    features: np.ndarray,
    labels: np.ndarray,
    training_rows: Sequence[np.ndarray],
    phases: Sequence[Phase],
    *,
    seeds: Sequence[int],
    settings: HeadSettings,
) -> Heads:
    """K heads, trained together, each standardised on its own training rows and trained on its own batches.

    Args:
        features: (N, D) float32.
        labels: (N,) 0 or 1.
        training_rows: the rows that standardise each of the K heads.
        phases: in training order; they define the number of steps.
        seeds: of the K heads' initial weights.
        settings: of the optimizer and the hidden layer.
    """
    moments = [(features[rows].mean(axis=0), features[rows].std(axis=0)) for rows in training_rows]
    centers, scales = (np.stack(values) for values in zip(*moments, strict=True))
    heads = Heads(centers, np.where(scales > 0, scales, 1.0), seeds, settings.hidden)
    inputs, targets = torch.from_numpy(features), torch.from_numpy(labels).float()
    with one_thread():
        for phase in phases:
            _train_phase(heads, inputs, targets, phase, settings)
    return heads


def _train_phase(heads: Heads, inputs: Tensor, targets: Tensor, phase: Phase, settings: HeadSettings) -> None:
    heads.hidden_weight.requires_grad_(not phase.last_layer_only)
    heads.hidden_bias.requires_grad_(not phase.last_layer_only)
    trained = [parameter for parameter in heads.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    batches = torch.from_numpy(phase.batches)
    n_steps = batches.shape[1]
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = settings.lr * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        rows = batches[:, step]
        logits = heads(inputs[rows])
        # The sum over heads gives each head the gradient that it would have alone.
        loss = F.binary_cross_entropy_with_logits(logits, targets[rows], reduction="none").mean(dim=1).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()


@torch.no_grad()
def predict_held_out(heads: Heads, features: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """(N,) probability of Roadwork of each row, from head k for the rows of fold k; ``folds`` is (N,)."""
    probabilities = np.empty(len(features))
    with one_thread():
        for fold in range(len(heads.centers)):
            rows = np.flatnonzero(folds == fold)
            logits = heads(torch.from_numpy(features[rows]), fold)
            probabilities[rows] = torch.sigmoid(logits.double()).numpy()
    return probabilities


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: these products are too small for more, and sums do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
