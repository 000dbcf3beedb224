"""The classification head of a network."""

from __future__ import annotations

from torch import nn

from roadwork.errors import ConfigError

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
