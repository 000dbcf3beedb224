"""What of a backbone's last layer becomes the features: its class token, the mean of its patches, or both."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from roadwork.errors import ConfigError


@dataclass(frozen=True)
class _Family:
    """How the networks of a model type are read.

    Attributes:
        own: the pooling of the type's own classifier; where transformers has none, of its `pooler_output`.
        has_class_token: whether the first token is a class token, registers and then patches behind it.
    """

    own: str
    has_class_token: bool = True


_CONVOLUTIONS = _Family("mean", has_class_token=False)
_FAMILIES = {
    "vit": _Family("cls"),
    "dinov2": _Family("cls_mean"),
    "dinov2_with_registers": _Family("cls_mean"),
    "dinov3_vit": _Family("cls"),
    "siglip": _Family("mean", has_class_token=False),
    "swin": _CONVOLUTIONS,
    "swinv2": _CONVOLUTIONS,
    "hiera": _CONVOLUTIONS,
    "resnet": _CONVOLUTIONS,
    "convnext": _CONVOLUTIONS,
    "convnextv2": _CONVOLUTIONS,
    "dinov3_convnext": _CONVOLUTIONS,
}


def choose_pooling(config: PreTrainedConfig, pooling: str) -> tuple[str, bool]:
    """The pooling that `model.pooling` means for a backbone, and whether it is that of its own classifier.

    Args:
        config: of the backbone.
        pooling: `auto`, `cls`, `mean` or `cls_mean`.

    Raises:
        ConfigError: the backbone has no class token, or roadwork does not know which of its tokens is one.
    """
    family = _FAMILIES.get(config.model_type)
    if family is None:
        if pooling == "auto":
            return pooling, True
        raise ConfigError(
            f"model.pooling is {pooling!r}, but which tokens of a {config.model_type} are patches is not known here; "
            f"allowed for it: auto, what its own classifier does. Known are {', '.join(_FAMILIES)}."
        )
    if pooling in ("auto", family.own):
        return family.own, True
    if not family.has_class_token:
        raise ConfigError(
            f"model.pooling is {pooling!r}, but a {config.model_type} has no class token; allowed for it: auto, mean. "
            "Both are the mean over the picture, as its own classifier takes it."
        )
    return pooling, False


def pool_tokens(tokens: Tensor, pooling: str, n_registers: int) -> Tensor:
    """(B, D) features, (B, 2 D) for `cls_mean`, of tokens (B, 1 + n_registers + patches, D). Registers are left out."""
    class_token, patches = tokens[:, 0], tokens[:, 1 + n_registers :]
    if pooling == "cls":
        return class_token
    mean = patches.mean(dim=1)
    return mean if pooling == "mean" else torch.cat([class_token, mean], dim=1)
