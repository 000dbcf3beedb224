"""The network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from roadwork.settings.checks import check_choice, check_range

ATTENTIONS = ("auto", "sdpa", "eager")
POOLINGS = ("auto", "cls", "mean", "cls_mean")


@dataclass
class ModelSettings:
    # A hub name or a folder (pretrained: true), or a transformers model type such as `resnet` (pretrained: false).
    name: str = "resnet"
    # Load weights; false builds the architecture from its configuration with random weights.
    pretrained: bool = False
    # Fields of the transformers configuration to set; `model_type` here builds offline when pretrained is false.
    config: dict[str, Any] = field(default_factory=dict)
    # How attention is computed: `auto` (transformers' choice: sdpa where the model has it), `sdpa`, or `eager`.
    attention: str = "auto"
    # What of a transformer's last layer the head sees: `cls` (the class token), `mean` (of the patches), `cls_mean`
    # (both, side by side), or `auto`, which is what its own classifier does.
    pooling: str = "auto"
    # Share of blocks that a step leaves out for an image (stochastic depth), growing from 0 at the first to this.
    drop_path: float = 0.0
    # Share of the features zeroed before the head.
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_choice("model.attention", self.attention, ATTENTIONS)
        check_choice("model.pooling", self.pooling, POOLINGS)
        for name in ("drop_path", "head_dropout"):
            check_range(f"model.{name}", getattr(self, name), 0.0, 0.9)
