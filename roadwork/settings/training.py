"""Settings of the network, its training, and where learning curves go."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from roadwork.core.errors import ConfigError
from roadwork.settings.checks import MAX_SEED, check_at_least, check_choice, check_range, check_word_or_count

ATTENTIONS = ("auto", "sdpa", "eager")
POOLINGS = ("auto", "cls", "mean", "cls_mean")
ADAPTERS = ("none", "lora", "dora", "adalora", "vera", "ia3")
LOSSES = ("cross_entropy", "balanced", "focal")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
_NOT_NEGATIVE = ("weight_decay", "clip_norm", "patience", "checkpoint_minutes", "probe_epochs", "max_skipped_steps")
_RANGES = (
    ("warmup", 0.0, 1.0),
    ("label_smoothing", 0.0, 0.5),
    ("ema_decay", 0.0, 1.0),
    ("focal_gamma", 0.0, 10.0),
    ("layer_decay", 0.1, 1.0),
)
_SECRET_KEY = re.compile(
    r"api_?key|access_?key|private_?key|token|secret|passw|credential|(^|_)auth($|_)", re.IGNORECASE
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")


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


@dataclass
class TrainingSettings:
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.05
    # Share of all steps over which the learning rate rises linearly; it then falls by a cosine.
    warmup: float = 0.05
    label_smoothing: float = 0.05
    # `cross_entropy`; `balanced`: its terms weighted by the inverse of their class's share of the drawn rows; `focal`:
    # terms that are right already count less, by (1 - p) ** focal_gamma.
    loss: str = "cross_entropy"
    focal_gamma: float = 2.0
    # Each layer's learning rate is that of the layer above times this; 1 gives all the same.
    layer_decay: float = 1.0
    # A run's folder whose best weights are where training starts, its adapter merged; null: as model says.
    start_from: str | None = None
    # Epochs in which the head alone is trained, on frozen features, before the rest joins (LP-FT); 0: none.
    probe_epochs: int = 0
    probe_lr: float = 1e-3
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
    # Steps whose loss or gradients are not finite are left out; after more than so many in a row the run stops.
    max_skipped_steps: int = 10
    # Lightning's accelerator: `auto`, `cpu`, `gpu`, `mps`.
    accelerator: str = "auto"
    # Devices of each machine that train together (DDP), or `auto`: all of them. Batches and the learning rate are each
    # device's: docs/several-gpus.md.
    devices: Any = 1
    # Machines that train together.
    num_nodes: int = 1

    def __post_init__(self) -> None:
        check_choice("training.adapter", self.adapter, ADAPTERS)
        check_choice("training.precision", self.precision, PRECISIONS)
        check_choice("training.loss", self.loss, LOSSES)
        check_word_or_count("training.devices", self.devices, "auto")
        for name, low, high in _RANGES:
            check_range(f"training.{name}", getattr(self, name), low, high)
        for name in ("epochs", "accumulate", "adapter_rank", "num_nodes"):
            check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in (
            "weight_decay",
            "clip_norm",
            "patience",
            "checkpoint_minutes",
            "probe_epochs",
            "max_skipped_steps",
        ):
            check_at_least(f"training.{name}", getattr(self, name), 0)
        check_range("training.seed", self.seed, 0, MAX_SEED)
        if self.freeze_backbone and self.adapter != "none":
            raise ConfigError(
                f"training.freeze_backbone is true and training.adapter is {self.adapter}: an adapter is trained "
                "inside the backbone. Choose one of them."
            )
        if self.freeze_backbone and self.probe_epochs:
            raise ConfigError(
                f"training.probe_epochs is {self.probe_epochs} and training.freeze_backbone is true: nothing would "
                "join after the probe. Choose one of them."
            )
        for name in ("lr", "probe_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    f"training.{name} is {getattr(self, name)}; it must be a number above 0, or nothing is trained."
                )


@dataclass
class TrackingSettings:
    # Lightning's loggers beside TensorBoard, which is always there: the name of each (wandb, mlflow, comet, csv) with
    # its arguments, such as {wandb: {project: roadwork}, mlflow: {tracking_uri: "file:mlruns"}}. No keys or passwords:
    # these belong into the environment. docs/tracking.md
    loggers: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, value in _leaves(self.loggers, "tracking.loggers"):
            name = key.rpartition(".")[2]
            if _SECRET_KEY.search(name) or (isinstance(value, str) and _SECRET_IN_URL.search(value)):
                raise ConfigError(
                    f"{key} looks like a secret, which a run would write into its config.yaml. Take it out, and set "
                    "the logger's environment variable: WANDB_API_KEY; MLFLOW_TRACKING_TOKEN, or "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; COMET_API_KEY."
                )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{number}")
    else:
        yield key, value
