"""Stochastic depth and dropout before the head."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from roadwork.core.errors import ConfigError
from roadwork.models.head import head_of

logger = logging.getLogger(__name__)


# Children that identify a residual block: the last module of each residual branch, and further names that only blocks
# have. Most blocks in transformers have a drop_path; the others are those of ViT, SigLIP with CLIP, and ResNet.
_BLOCKS = (
    (("drop_path",), ()),
    (("attention", "mlp"), ("layernorm_before",)),
    (("self_attn", "mlp"), ()),
    (("layer",), ("shortcut",)),
)


class _DropOutput:
    """Forward hook: zeroes a module's output for a share of the images while the module is in training mode."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        del arguments
        if not module.training:
            return output
        if isinstance(output, tuple):
            return drop_images(output[0], self.share), *output[1:]
        return drop_images(output, self.share)


def drop_images(values: Tensor, share: float) -> Tensor:
    """Values (B, ...) with a share of the images zeroed and the others divided by 1 - share, which keeps the mean.

    Huang et al., Deep networks with stochastic depth, ECCV 2016; scaled as in timm.
    """
    if share == 0:
        return values
    kept = torch.empty(values.shape[0], *[1] * (values.dim() - 1), dtype=values.dtype, device=values.device)
    return values * (kept.bernoulli_(1 - share) / (1 - share))


def set_drop_path(network: PreTrainedModel, share: float) -> None:
    """Adds stochastic depth: the share of images that skip a residual branch rises linearly from 0 to the last block.

    The rule is timm's. Names of weights and outputs in evaluation mode do not change.

    Args:
        network: changed in place.
        share: share in the last block; 0 keeps the network's own configuration.

    Raises:
        ConfigError: roadwork does not know the network's residual branches, or it has fewer than two blocks.
    """
    if share == 0:
        own = getattr(network.config, "drop_path_rate", 0)
        if own:
            logger.info("Drop path is %s, from the network's own configuration (drop_path_rate).", own)
        return
    blocks = _find_blocks(network)
    if len(blocks) < 2:
        reason = "has one residual block" if blocks else "has no known residual blocks"
        raise ConfigError(
            f"model.drop_path is {share}, but this {network.config.model_type} {reason}, and the first block is never "
            "skipped. Set it to 0, or choose another network."
        )
    rates = torch.linspace(0, share, len(blocks), device="cpu").tolist()
    for (block, branches), rate in zip(blocks, rates, strict=True):
        if branches == ("drop_path",):
            block.drop_path = nn.Identity()  # replaces the rate of its own configuration
        for branch in branches:
            block.get_submodule(branch).register_forward_hook(_DropOutput(rate))
    logger.info("Drop path in %d blocks, from 0 to %g.", len(blocks), share)


def _find_blocks(network: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """The blocks from the first to the last, each with the names of its residual branches."""
    for branches, others in _BLOCKS:
        wanted = {*branches, *others}
        blocks = [module for module in network.modules() if wanted <= {name for name, _ in module.named_children()}]
        if blocks:
            return [(block, branches) for block in blocks]
    return []


class _DropInput:
    """Forward pre-hook: dropout on a module's inputs while the module is in training mode."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = arguments
        return F.dropout(features, self.share, module.training), *others


def set_head_dropout(network: nn.Module, share: float) -> None:
    """Adds dropout on the features before the head.

    The hook is on the head itself, so it also acts on precomputed features. Names of weights do not change.

    Raises:
        ConfigError: the network has no head.
    """
    if share:
        head_of(network).register_forward_pre_hook(_DropInput(share))
