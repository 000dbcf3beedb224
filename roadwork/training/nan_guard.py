"""Finds non-finite losses and gradients and the rows that caused them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import lightning as L
import torch
from torch import Tensor

T = TypeVar("T")


def spread_non_finite(loss: Tensor) -> Tensor:
    """The loss, a scalar, as it is; where it is not finite, one whose gradients are all NaN.

    Then the gradients tell all: a loss of infinity can have finite ones (a logit of -infinity does it), and where
    ranks train together they average gradients, not losses, so that each must see the same in its own.
    """
    return loss * torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)


def non_finite_names(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the floating-point tensors that hold a number which is not finite; waits for the device once."""
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not floats:
        return []
    device = next(iter(floats.values())).device
    finite = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in floats.values()])
    return [name for name, is_finite in zip(floats, finite.tolist(), strict=True) if not is_finite]


@dataclass
class SeenBatch:
    """What is kept of a batch until its optimizer step: small tensors on its device, and none of its pixels.

    Attributes:
        rows: (B,) of the data module's table.
        is_finite: (B,) whether a row's pixels or features are.
        loss: a scalar, as the backward pass got it: divided by the batches of a step, times the loss scale.
    """

    rows: Tensor
    is_finite: Tensor
    loss: Tensor

    @classmethod
    def of(cls, batch: dict[str, Any]) -> SeenBatch:
        """Of a training batch of the data module, before its loss is known."""
        values = batch["features"] if "features" in batch else batch["image"]
        sums = values.detach().sum(dim=tuple(range(1, values.ndim)), dtype=torch.float32)
        return cls(batch["index"], torch.isfinite(sums), torch.zeros((), device=values.device))


@dataclass(frozen=True)
class Suspects:
    """What stands behind a step whose gradients are not finite, over all ranks.

    Attributes:
        losses: of the batches of the step.
        ids: of the rows of the batches whose loss is not finite; of all batches where each loss is finite.
        broken: those of them whose pixels or features are not finite.
    """

    losses: list[float]
    ids: list[str]
    broken: list[str]

    @property
    def has_finite_losses(self) -> bool:
        return all(map(math.isfinite, self.losses))


def find_suspects(trainer: L.Trainer, batches: Iterable[SeenBatch], loss_factor: float) -> Suspects:
    """Looks at the batches of a step; all ranks must call it together.

    Args:
        trainer: its data module's table names the rows.
        batches: of this rank.
        loss_factor: a batch's loss is what the backward pass got, times this.
    """
    own = [
        (
            float(batch.loss) * loss_factor,
            row_ids(trainer, batch.rows),
            row_ids(trainer, batch.rows[~batch.is_finite]),
        )
        for batch in batches
    ]
    found = gather(trainer, own)
    suspected = [batch for batch in found if not math.isfinite(batch[0])] or found
    return Suspects(
        losses=[loss for loss, _, _ in found],
        ids=[row for _, ids, _ in suspected for row in ids],
        broken=[row for _, _, broken in suspected for row in broken],
    )


def gather(trainer: L.Trainer, own: list[T]) -> list[T]:
    """The lists of all ranks, one behind the other; all ranks must call it together."""
    if trainer.world_size == 1:
        return own
    everyone: list[list[T]] = [[] for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(everyone, own)
    return [each for rank in everyone for each in rank]


def row_ids(trainer: L.Trainer, rows: Tensor) -> list[str]:
    """The ids of rows of the data module's table, which are their photos' names."""
    ids = trainer.datamodule.table.ids  # type: ignore[attr-defined]  # Lightning's Trainer lacks it
    return [str(ids[row]) for row in rows.tolist()]


def name_some(ids: Iterable[str], limit: int = 8) -> str:
    """The first ids, each once, and how many more there are."""
    distinct = list(dict.fromkeys(ids))
    more = len(distinct) - limit
    return ", ".join(distinct[:limit]) + (f" and {more} more" if more > 0 else "")
