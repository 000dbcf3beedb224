"""The network, and how its weights are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from roadwork.errors import ConfigError
from roadwork.settings.checks import MAX_SEED, check_at_least, check_choice, check_range

ADAPTERS = ("none", "lora", "adalora", "vera", "ia3")
ATTENTIONS = ("auto", "sdpa", "eager")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


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

    def __post_init__(self) -> None:
        check_choice("model.attention", self.attention, ATTENTIONS)


@dataclass
class TrainingSettings:
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.05
    # Share of all steps over which the learning rate rises linearly; it then falls by a cosine.
    warmup: float = 0.05
    label_smoothing: float = 0.05
    # Gradients are clipped to this norm; 0 turns clipping off.
    clip_norm: float = 1.0
    # Optimizer steps use gradients of this many batches.
    accumulate: int = 1
    # `auto`: bf16-mixed where the device has bf16, else 32-true. Or one of these, or 16-mixed.
    precision: str = "auto"
    # Compile the network with torch.compile: slow to start, then fewer and larger kernels.
    compile: bool = False
    # Keep images and weights in channels-last order, which convolutions want; false: as they came.
    channels_last: bool = True
    # AdamW in one kernel; null: where the device has it.
    fused_optimizer: bool | None = None
    # Compute activations again in the backward pass instead of keeping them: less memory, more time.
    gradient_checkpointing: bool = False
    # Train the head alone. With data.augmentation.train.mode=none the backbone's features are computed once and kept.
    freeze_backbone: bool = False
    seed: int = 0
    deterministic: bool = False
    # Average the weights; validation and the best checkpoint then use the average.
    use_ema: bool = True
    ema_decay: float = 0.999
    # Let the decay grow from 0 as (1 + steps) / (10 + steps) up to ema_decay.
    ema_warmup: bool = True
    # Minutes between two saves inside an epoch, so that a crash costs no more; 0: at the end of epochs alone.
    checkpoint_minutes: float = 10.0
    # Epochs without a better val_select/mcc before the run stops; 0 never stops early.
    patience: int = 10
    adapter: str = "none"
    # Rank of lora and adalora (vera's is 256).
    adapter_rank: int = 8
    # Lightning's accelerator: `auto`, `cpu`, `gpu`, `mps`. One device trains.
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        check_choice("training.adapter", self.adapter, ADAPTERS)
        check_choice("training.precision", self.precision, PRECISIONS)
        for name, low, high in (("warmup", 0.0, 1.0), ("label_smoothing", 0.0, 0.5), ("ema_decay", 0.0, 1.0)):
            check_range(f"training.{name}", getattr(self, name), low, high)
        for name in ("epochs", "accumulate", "adapter_rank"):
            check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("weight_decay", "clip_norm", "patience", "checkpoint_minutes"):
            check_at_least(f"training.{name}", getattr(self, name), 0)
        check_range("training.seed", self.seed, 0, MAX_SEED)
        if self.freeze_backbone and self.adapter != "none":
            raise ConfigError(
                f"training.freeze_backbone is true and training.adapter is {self.adapter}: an adapter is trained "
                "inside the backbone. Choose one of them."
            )
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"training.lr is {self.lr}; it must be a number above 0, or nothing is trained.")
