"""The runs' own networks as one: for evaluation as they are, and merged for export."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from torch import Tensor, nn

from roadwork.models.ensemble import EnsembleForImageClassification, mean_logits
from roadwork.training.lora.apply import merge_adapter


class AveragedNetworks(nn.Module):
    """Networks as they were trained, adapters and all: (B, 3, S, S) to `.logits` (B, 2), the mean of theirs."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """`logits` (B, 2) of None and Roadwork, for (B, 3, S, S)."""
        return SimpleNamespace(logits=mean_logits(self.members, pixel_values))


def merge_members(network: AveragedNetworks) -> EnsembleForImageClassification:
    """The same networks, each one's adapter merged, as one that can be saved."""
    return EnsembleForImageClassification.of([merge_adapter(member) for member in network.members])
