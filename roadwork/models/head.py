"""Finds a network's classification head, and trains or removes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from roadwork.core.errors import ConfigError

# transformers' own names, the usual one first; `score` is imagegpt's, `head` swiftformer's, `fc` hgnet's.
HEAD_NAMES = ("classifier", "head", "score", "fc")


def find_head(network: nn.Module) -> str:
    """Name of the child module that turns features into logits.

    Raises:
        ConfigError: no child has a head's name.
    """
    children = [name for name, _ in network.named_children()]
    for name in HEAD_NAMES:
        if name in children:
            return name
    raise ConfigError(
        f"{type(network).__name__} has no classification head: its parts are {', '.join(children)}; "
        f"a head is named {', '.join(HEAD_NAMES)}. Use a model for image classification."
    )


def head_of(network: nn.Module) -> nn.Module:
    """The child that turns features into logits.

    Raises:
        ConfigError: the network has no head.
    """
    return network.get_submodule(find_head(network))


def freeze_backbone(network: nn.Module) -> None:
    """Freezes all parameters but the head's; autograd then records nothing in the backbone.

    Raises:
        ConfigError: the network has no head.
    """
    network.requires_grad_(requires_grad=False)
    head_of(network).requires_grad_()


def train_head_alone(network: nn.Module) -> None:
    """Puts the head into training mode and the backbone into evaluation mode: no dropout, no BatchNorm updates."""
    network.eval()
    head_of(network).train()


@contextmanager
def without_head(network: nn.Module) -> Iterator[None]:
    """Removes the head inside the block: `.logits` are then the features (B, D) that the head gets."""
    name = find_head(network)
    head = getattr(network, name)
    setattr(network, name, nn.Flatten())
    try:
        yield
    finally:
        setattr(network, name, head)


@contextmanager
def in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Puts `network` into evaluation mode inside the block, then restores the mode of each module."""
    was_training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in was_training.items():
            module.training = mode
