"""SigLIP 2 for pictures of any shape (NaFlex), as a network for squares of one size.

NaFlex checkpoints (model type `siglip2`) take patches, a mask and the picture's shape. For squares of one size without
padding all three are always the same, and the network is a SigLIP: its patch layer is a convolution, and its positions
are the stored grid resized once. transformers has that class for longer, and older versions load it too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, SiglipConfig, SiglipForImageClassification

NAFLEX = "siglip2"
_SHARED = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "patch_size",
    "hidden_act", "layer_norm_eps", "attention_dropout", "vision_use_head",
)  # fmt: skip


def fixed_config(config: PreTrainedConfig, img_size: int) -> SiglipConfig:
    """The configuration of the SigLIP that a NaFlex model is for squares of `img_size` pixels."""
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
    """The SigLIP that says of squares of `img_size` pixels what a NaFlex classifier says of their patches."""
    fixed = SiglipForImageClassification(fixed_config(network.config, img_size))
    weights = network.state_dict()
    prefix = "vision_model.embeddings"
    patch, side = fixed.config.vision_config.patch_size, img_size // fixed.config.vision_config.patch_size
    layer = weights[f"{prefix}.patch_embedding.weight"]
    # A patch's numbers are listed by row, column and channel.
    weights[f"{prefix}.patch_embedding.weight"] = layer.view(len(layer), patch, patch, -1).permute(0, 3, 1, 2)
    weights[f"{prefix}.position_embedding.weight"] = _resized(weights[f"{prefix}.position_embedding.weight"], side)
    fixed.load_state_dict(weights)
    return fixed.train(network.training)


def _resized(positions: Tensor, side: int) -> Tensor:
    """Positions (n, D) of a square grid, as NaFlex resizes them, for side x side patches."""
    stored = round(len(positions) ** 0.5)
    grid = positions.view(1, stored, stored, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2)[0].T.contiguous()
