"""Dropout on the features that the head is given."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from roadwork.models.head import head_of


class _DropInput:
    """Dropout on what a module is given, in that module's mode: no weight's name changes, and no export knows of it."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = arguments
        return F.dropout(features, self.share, module.training), *others


def set_head_dropout(network: nn.Module, share: float) -> None:
    """Zeroes a share of the features before the head, in training; the others are divided by 1 - share.

    It is on the head itself, so it also acts where the head alone is called, on features that were kept.

    Raises:
        ConfigError: the network has no head.
    """
    if share:
        head_of(network).register_forward_pre_hook(_DropInput(share))
