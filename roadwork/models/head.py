"""The classification head of a network, and the network without it."""

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
        ConfigError: none of the children has a head's name.
    """
    children = [name for name, _ in network.named_children()]
    for name in HEAD_NAMES:
        if name in children:
            return name
    raise ConfigError(
        f"No head was found in {type(network).__name__}: its parts are {', '.join(children)}; "
        f"a head is named {', '.join(HEAD_NAMES)}. Use a model made for image classification."
    )


def head_of(network: nn.Module) -> nn.Module:
    """The child that turns features into logits.

    Raises:
        ConfigError: there is none.
    """
    return network.get_submodule(find_head(network))


def freeze_backbone(network: nn.Module) -> None:
    """Leaves the head alone to be trained; autograd then records nothing of the backbone.

    Raises:
        ConfigError: the network has no head.
    """
    network.requires_grad_(requires_grad=False)
    head_of(network).requires_grad_()


def train_head_alone(network: nn.Module) -> None:
    """Puts the head into training mode and the rest into evaluation mode: no dropout, and BatchNorm learns nothing."""
    network.eval()
    head_of(network).train()


@contextmanager
def without_head(network: nn.Module) -> Iterator[None]:
    """Inside the block `network` has no head: its `.logits` are the features (B, D) that the head would be given."""
    name = find_head(network)
    head = getattr(network, name)
    setattr(network, name, nn.Flatten())
    try:
        yield
    finally:
        setattr(network, name, head)


@contextmanager
def in_evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Inside the block `network` is in evaluation mode; after it each of its modules is in the mode that it was in."""
    was_training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in was_training.items():
            module.training = mode
