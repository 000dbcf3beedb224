"""Settings of the network, its training and the loggers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork.core.errors import ConfigError
from roadwork.settings.limits import MAX_SEED, above, at_least, between, check_limits, count_or, one_of, share_below_one

ATTENTIONS = ("auto", "sdpa", "eager")
PATCH_HEADS = ("linear", "color")
POOLINGS = ("auto", "cls", "mean", "cls_mean", "top_patches")
SELECTIONS = ("best", "last")
ADAPTERS = ("none", "lora", "dora", "adalora", "vera", "ia3")
LOSSES = ("cross_entropy", "balanced", "focal")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
_SECRET_KEY = re.compile(
    r"api_?key|access_?key|private_?key|token|secret|passw|credential|(^|_)auth($|_)", re.IGNORECASE
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")


@dataclass
class ModelSettings:
    name: str = "resnet"
    """A name on the Hugging Face hub, a folder, or a transformers model type such as `resnet`."""
    pretrained: bool | None = None
    """Load weights (true), or build the network with random weights (false).

    null: true for a folder or a hub name, false for a model type.
    """
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of the transformers configuration, for a network without weights; `model_type` names its type.

    A new `model.name` starts with an empty `model.config`.
    """
    attention: str = field(default="auto", metadata=one_of(ATTENTIONS))
    """How attention is computed: `auto` (transformers chooses), `sdpa` or `eager`."""
    pooling: str = field(default="auto", metadata=one_of(POOLINGS))
    """The features that the head gets from a transformer's last layer.

    - `auto`: those of the network's own classifier.
    - `cls`: the class token.
    - `mean`: the mean of the patch tokens.
    - `cls_mean`: both, concatenated.
    - `top_patches`: the head scores each patch, and the photo has the mean score of its highest patches. It sees small
      and distant objects.
    """
    top_patches: int = field(default=8, metadata=at_least(1))
    """Number of patches whose scores are averaged with `model.pooling=top_patches`."""
    patch_head: str = field(default="linear", metadata=one_of(PATCH_HEADS))
    """How `model.pooling=top_patches` scores a patch.

    - `linear`: by all of its token.
    - `color`: by the main components of its token and by its own colours, with a small network. docs/real-photos.md has
      its results at cameras that training has not seen.
    """
    depth: int | None = field(default=None, metadata=at_least(1))
    """Number of transformer blocks to keep; later ones are removed, which saves their time. null: all.

    Middle layers can transfer better to new places than the last one.
    """
    drop_path: float = field(default=0.0, metadata=between(0.0, 0.9))
    """Stochastic depth: probability that the last block is skipped for an image; it grows linearly from 0."""
    head_dropout: float = field(default=0.0, metadata=between(0.0, 0.9))
    """Dropout on the features before the head."""

    def __post_init__(self) -> None:
        check_limits(self, "model")
        if self.pretrained is None:
            self.pretrained = _names_weights(self.name)


def _names_weights(name: str) -> bool:
    """Whether a name is a folder's or one on the hub, and not a model type."""
    return "/" in name or (Path(name) / "config.json").is_file()


@dataclass
class TrainingSettings:
    epochs: int = field(default=30, metadata=at_least(1))
    """Passes over the training rows."""
    lr: float = field(default=1e-3, metadata=above(0))
    """Peak learning rate of AdamW."""
    weight_decay: float = field(default=0.05, metadata=at_least(0))
    """Weight decay of the weight matrices; biases and norms have none."""
    warmup: float = field(default=0.05, metadata=between(0.0, 1.0))
    """Share of all steps in which the learning rate rises linearly; then it falls by a cosine."""
    label_smoothing: float = field(default=0.05, metadata=between(0.0, 0.5))
    """Share of each label that is spread over both classes."""
    loss: str = field(default="cross_entropy", metadata=one_of(LOSSES))
    """The training loss.

    - `cross_entropy`: every row has the same weight.
    - `balanced`: a row's weight is the inverse of its class's share of the drawn rows.
    - `focal`: a row's weight is (1 - p) ** focal_gamma, where p is the probability of its label.
    """
    focal_gamma: float = field(default=2.0, metadata=between(0.0, 10.0))
    """Exponent of the focal loss; 0 is cross-entropy."""
    layer_decay: float = field(default=1.0, metadata=between(0.1, 1.0))
    """Factor on the learning rate from each layer to the one below; 1 gives all layers the same rate."""
    start_from: str | None = None
    """A run's folder, with whose best weights training starts (adapter merged); null: as `model` defines."""
    probe_epochs: int = field(default=0, metadata=at_least(0))
    """Epochs of a linear probe before the whole network is trained (LP-FT); 0 for none."""
    probe_lr: float = field(default=1e-3, metadata=above(0))
    """Learning rate of the linear probe."""
    clip_norm: float = field(default=1.0, metadata=at_least(0))
    """Largest norm of the gradients; 0 turns clipping off."""
    accumulate: int = field(default=1, metadata=at_least(1))
    """Batches whose gradients make one optimizer step."""
    precision: str = field(default="auto", metadata=one_of(PRECISIONS))
    """Lightning's precision; `auto`: bf16-mixed if the device supports bf16, else 32-true."""
    compile: bool = False
    """Compile the network with torch.compile: a slow start, then faster steps."""
    channels_last: bool = True
    """Keep images and weights in channels-last order, which is faster for convolutions."""
    fused_optimizer: bool | None = None
    """Run AdamW in one fused kernel; null: if the device supports it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    freeze_backbone: bool = False
    """Train only the head.

    Without augmentation (`data.augmentation.train.mode=none`) the features are computed once and kept.
    """
    seed: int = field(default=0, metadata=between(0, MAX_SEED))
    """Seed of the weights, the order of the rows, the augmentation and dropout."""
    deterministic: bool = False
    """Use only deterministic algorithms; a second run then gives the same weights, more slowly."""
    use_ema: bool = True
    """Keep an exponential moving average of the weights; validation and the best checkpoint use it."""
    ema_decay: float = field(default=0.999, metadata=between(0.0, 1.0))
    """Decay of the average: average = decay * average + (1 - decay) * weights."""
    ema_warmup: bool = True
    """Let the decay rise as (1 + steps) / (10 + steps) up to `ema_decay`."""
    checkpoint_minutes: float = field(default=10.0, metadata=at_least(0))
    """Minutes between two checkpoints inside an epoch; 0: only at the end of each epoch."""
    patience: int = field(default=10, metadata=at_least(0))
    """Epochs without a better val_select/mcc before the run stops; 0 never stops early."""
    select: str = field(default="best", metadata=one_of(SELECTIONS))
    """The epoch whose weights are evaluated and exported.

    - `best`: the first one with the highest MCC on `val_select`.
    - `last`: the last one. A small or easy `val_select` cannot rank epochs, and may prefer a hardly trained one.
    """
    adapter: str = field(default="none", metadata=one_of(ADAPTERS))
    """The peft adapter to train instead of the whole network: `none`, `lora`, `dora`, `adalora`, `vera` or `ia3`."""
    adapter_rank: int = field(default=8, metadata=at_least(1))
    """Rank of the added matrices (lora, dora); for adalora the mean rank after pruning."""
    adapter_alpha: float | None = field(default=None, metadata=above(0))
    """The added matrix is scaled by alpha / rank (lora, dora) or alpha / initial rank (adalora).

    null: twice that rank.
    """
    adapter_dropout: float = field(default=0.0, metadata=share_below_one())
    """Dropout on the inputs of the added matrices (lora, dora, adalora, vera)."""
    adapter_targets: list[str] | None = None
    """Names of the layers to adapt, or the last parts of their names, such as [q_proj, v_proj].

    null: found by name: all linear layers of a transformer's blocks, or a CNN's convolutions; for ia3 keys, values and
    the feed-forward output.
    """
    vera_rank: int = field(default=256, metadata=at_least(1))
    """Rank of VeRA's shared matrices; much larger than LoRA's, since a rank costs one trained number per layer."""
    adalora_init_rank: int | None = field(default=None, metadata=at_least(2))
    """Rank of each layer before pruning, above `adapter_rank`; null: one and a half times `adapter_rank`."""
    adalora_warmup: float = field(default=0.1, metadata=between(0.0, 1.0))
    """Share of all steps before pruning starts."""
    adalora_final: float = field(default=0.3, metadata=between(0.0, 1.0))
    """Share of all steps after pruning has ended."""
    adalora_orthogonality: float = field(default=0.5, metadata=at_least(0))
    """Weight of AdaLoRA's orthogonality term in the loss."""
    max_skipped_steps: int = field(default=10, metadata=at_least(0))
    """Steps in a row that are skipped because the loss or a gradient is not finite; after more the run stops."""
    accelerator: str = "auto"
    """Lightning's accelerator: `auto`, `cpu`, `gpu` or `mps`."""
    devices: int | str = field(default=1, metadata=count_or("auto"))
    """Devices of each machine that train together (DDP); `auto`: all of them.

    Batch size and learning rate are per device: docs/several-gpus.md.
    """
    num_nodes: int = field(default=1, metadata=at_least(1))
    """Machines that train together."""

    def __post_init__(self) -> None:
        check_limits(self, "training")
        if self.freeze_backbone and self.adapter != "none":
            raise ConfigError(
                f"training.freeze_backbone is true and training.adapter is {self.adapter}, which trains layers of the "
                "backbone. Choose one of them."
            )
        if self.freeze_backbone and self.probe_epochs:
            raise ConfigError(
                f"training.probe_epochs is {self.probe_epochs} and training.freeze_backbone is true: nothing is left "
                "to train after the probe. Choose one of them."
            )
        if self.adalora_init_rank is not None and self.adalora_init_rank <= self.adapter_rank:
            raise ConfigError(
                f"training.adalora_init_rank is {self.adalora_init_rank} and training.adapter_rank is "
                f"{self.adapter_rank}; the initial rank must be larger, so that AdaLoRA has ranks to prune."
            )
        if self.adalora_warmup + self.adalora_final >= 1:
            raise ConfigError(
                f"training.adalora_warmup is {self.adalora_warmup} and training.adalora_final is {self.adalora_final}; "
                "their sum must be below 1, so that steps are left to prune in."
            )


@dataclass
class TrackingSettings:
    loggers: dict[str, Any] = field(default_factory=dict)
    """Loggers in addition to TensorBoard: Lightning loggers (wandb, mlflow, comet, csv) with their arguments.

    Example: {wandb: {project: roadwork}, mlflow: {tracking_uri: "file:mlruns"}}.
    Keys and passwords belong in environment variables: docs/tracking.md.
    """

    def __post_init__(self) -> None:
        for key, value in _leaves(self.loggers, "tracking.loggers"):
            name = key.rpartition(".")[2]
            if _SECRET_KEY.search(name) or (isinstance(value, str) and _SECRET_IN_URL.search(value)):
                raise ConfigError(
                    f"{key} looks like a secret, and a run would write it into its config.yaml. Remove it, and set "
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
