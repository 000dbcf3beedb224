"""Finds a network's classification head, and trains or removes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


def logits_and_features(network: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, 2) and penultimate features (B, D) for network inputs (B, 3, S, S), in one pass.

    The features are the head's input. If the head scores each patch, they are the mean of the patch tokens. An
    ensemble has the features of all its members side by side.

    Raises:
        ConfigError: the network has no head.
    """
    inputs: list[Tensor] = []
    heads = [head_of(member) for member in getattr(network, "members", (network,))]
    hooks = [head.register_forward_pre_hook(lambda _, given: inputs.append(given[0])) for head in heads]
    try:
        logits: Tensor = network(pixel_values=pixels).logits
    finally:
        for hook in hooks:
            hook.remove()
    return logits, torch.cat([(x.mean(dim=1) if x.dim() == 3 else x.flatten(1)) for x in inputs], dim=1)


def penultimate(network: nn.Module, pixels: Tensor) -> Tensor:
    """Penultimate features (B, D); see `logits_and_features`."""
    return logits_and_features(network, pixels)[1]


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
