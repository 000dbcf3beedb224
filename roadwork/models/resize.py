"""A pretrained network's weights in a network for another image size."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from roadwork.errors import ConfigError

logger = logging.getLogger(__name__)


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a configuration with the image's fields; models of image and text (SigLIP, CLIP) have one."""
    part: PreTrainedConfig = getattr(config, "vision_config", config)
    return part


def set_image_size(part: PreTrainedConfig, img_size: int) -> None:
    """Notes the size of images, as one number or as two, where a configuration has a place for it."""
    before = getattr(part, "image_size", None)
    if before is not None:
        part.image_size = [img_size, img_size] if isinstance(before, list | tuple) else img_size


def resize(
    network: PreTrainedModel, img_size: int, build: Callable[[PreTrainedConfig], PreTrainedModel]
) -> PreTrainedModel:
    """The same weights in a network made for another image size.

    Position embeddings are interpolated by the network's own method. DINOv3 ViTs have none: the angles of their rotary
    positions are computed from each image's own size.

    Args:
        network: it, for the size in its configuration.
        img_size: height and width in pixels.
        build: makes a network from a configuration.

    Raises:
        ConfigError: its weights fit its own size alone.
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
            f"resized; set data.img_size={original}."
        ) from None
    if interpolated:
        logger.info("Position embeddings were interpolated from %s to %d pixels.", original, img_size)
    return resized


def _position_keys(module_name: str) -> tuple[str, str]:
    return f"{module_name}.position_embeddings", f"{module_name}.position_embedding.weight"


@torch.no_grad()
def _interpolate(method: Any, positions: torch.Tensor, img_size: int) -> torch.Tensor:
    # The method reads only the shape of its first argument; without tokens it never takes the size for its own.
    no_tokens = positions.new_empty(1, 0, positions.shape[-1])
    interpolated: torch.Tensor = method(no_tokens, img_size, img_size)
    return interpolated.reshape(-1, positions.shape[-1]) if positions.dim() == 2 else interpolated
