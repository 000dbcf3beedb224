"""Adapts a pretrained network to another image size.

NaFlex checkpoints (model type `siglip2`) take patches, a mask and the image's shape. For square images of one size the
network is a SigLIP: the patch layer is a convolution, and the position grid is resized once. Older versions of
transformers can load a SigLIP too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, SiglipConfig, SiglipForImageClassification

from roadwork.core.errors import ConfigError

logger = logging.getLogger(__name__)

NAFLEX = "siglip2"
_SHARED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "patch_size",
    "hidden_act", "layer_norm_eps", "attention_dropout", "vision_use_head",
)  # fmt: skip


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The image encoder's configuration: `vision_config` for SigLIP and CLIP, else the configuration itself."""
    part: PreTrainedConfig = getattr(config, "vision_config", config)
    return part


def set_depth(part: PreTrainedConfig, depth: int) -> None:
    """Keeps the first `depth` transformer blocks; the final layer norm stays.

    Raises:
        ConfigError: the network has fewer blocks, or it is no plain transformer.
    """
    blocks = getattr(part, "num_hidden_layers", None)
    if not isinstance(blocks, int) or hasattr(part, "depths"):
        raise ConfigError(
            f"model.depth is {depth}, but a {part.model_type} has no single row of blocks. Set it to null."
        )
    if depth > blocks:
        raise ConfigError(
            f"model.depth is {depth}, but this {part.model_type} has {blocks} blocks. Allowed: 1 to {blocks}."
        )
    part.num_hidden_layers = depth
    if hasattr(part, "stage_names"):  # transformers' names of the blocks, checked when a saved network is loaded
        part.stage_names = part.stage_names[: depth + 1]
        part.set_output_features_output_indices(out_features=None, out_indices=None)


def set_image_size(part: PreTrainedConfig, img_size: int) -> None:
    """Sets `image_size`, as one number or two, if a configuration has the field."""
    before = getattr(part, "image_size", None)
    if before is not None:
        part.image_size = [img_size, img_size] if isinstance(before, list | tuple) else img_size


def resize(
    network: PreTrainedModel, img_size: int, build: Callable[[PreTrainedConfig], PreTrainedModel]
) -> PreTrainedModel:
    """A network for another image size, with the same weights.

    Position embeddings are interpolated by the network's own method. DINOv3 ViTs have none: their rotary positions
    follow from each image's size.

    Args:
        network: a network for the image size in its configuration.
        img_size: height and width in pixels.
        build: builds a network from a configuration.

    Raises:
        ConfigError: the weights fit only their own image size.
    """
    part = vision_config(network.config)
    original = getattr(part, "image_size", img_size)
    if original in (img_size, [img_size, img_size], (img_size, img_size)):
        return network
    weights = network.state_dict()
    interpolated = False
    for name, module in network.named_modules():
        if hasattr(module, "interpolate_pos_encoding"):
            key = next((key for key in _position_keys(name) if key in weights), None)
            if key is not None:
                weights[key] = _interpolate(module.interpolate_pos_encoding, weights[key], img_size)
                interpolated = True
    set_image_size(part, img_size)
    resized = build(network.config)
    try:
        resized.load_state_dict(weights)
    except RuntimeError:
        raise ConfigError(
            f"data.img_size is {img_size}, but a {network.config.model_type}'s weights for {original} pixels cannot be "
            f"resized. Set data.img_size={original}."
        ) from None
    if interpolated:
        logger.info("Interpolated position embeddings from %s to %d pixels.", original, img_size)
    return resized


def _position_keys(module_name: str) -> tuple[str, str]:
    return f"{module_name}.position_embeddings", f"{module_name}.position_embedding.weight"


@torch.no_grad()
def _interpolate(method: Any, positions: torch.Tensor, img_size: int) -> torch.Tensor:
    # The method reads only the shape of its first argument. With no tokens it always interpolates.
    no_tokens = positions.new_empty(1, 0, positions.shape[-1])
    interpolated: torch.Tensor = method(no_tokens, img_size, img_size)
    return interpolated.reshape(-1, positions.shape[-1]) if positions.dim() == 2 else interpolated


def fixed_config(config: PreTrainedConfig, img_size: int) -> SiglipConfig:
    """The configuration of the SigLIP that equals a NaFlex model on square images of `img_size` pixels."""
    vision = config.vision_config
    fields = {name: getattr(vision, name) for name in _SHARED if hasattr(vision, name)}
    fixed = SiglipConfig(
        vision_config=fields | {"image_size": img_size},
        id2label=config.id2label,
        label2id=config.label2id,
        problem_type=None,
    )
    if config._attn_implementation is not None:  # noqa: SLF001 -- it goes with the config
        fixed._attn_implementation = config._attn_implementation  # noqa: SLF001
    return fixed


@torch.no_grad()
def at_fixed_size(network: PreTrainedModel, img_size: int) -> SiglipForImageClassification:
    """The SigLIP whose logits equal a NaFlex classifier's on square images of `img_size` pixels."""
    fixed = SiglipForImageClassification(fixed_config(network.config, img_size))
    weights = network.state_dict()
    prefix = "vision_model.embeddings"
    patch, side = fixed.config.vision_config.patch_size, img_size // fixed.config.vision_config.patch_size
    layer = weights[f"{prefix}.patch_embedding.weight"]
    # The input of NaFlex's linear layer is a patch in the order row, column, channel.
    weights[f"{prefix}.patch_embedding.weight"] = layer.view(len(layer), patch, patch, -1).permute(0, 3, 1, 2)
    weights[f"{prefix}.position_embedding.weight"] = _resized(weights[f"{prefix}.position_embedding.weight"], side)
    fixed.load_state_dict(weights)
    return fixed.train(network.training)


def _resized(positions: Tensor, side: int) -> Tensor:
    """Position embeddings (n, D) of a square grid, resized to side x side patches as NaFlex does."""
    stored = round(len(positions) ** 0.5)
    grid = positions.view(1, stored, stored, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2)[0].T.contiguous()
