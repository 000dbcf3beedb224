"""Options that trade the speed of a step, its memory and the time until the first one."""

from __future__ import annotations

import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from roadwork.errors import ConfigError

logger = logging.getLogger(__name__)


def checkpoint_gradients(network: nn.Module) -> None:
    """Lets a network compute activations again in the backward pass, layer by layer, instead of keeping them.

    The gradients are the same. Without reentrance they also reach adapters inside layers whose input needs none.

    Raises:
        ConfigError: it is not made of layers that can do so.
    """
    name = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    refused = ConfigError(
        f"training.gradient_checkpointing is true, but a {name} has no layers that compute their activations again. "
        "Set it to false, or choose a transformer such as model=dinov2_base."
    )
    if not isinstance(network, PreTrainedModel):
        raise refused
    # transformers 5 has renamed it on the way.
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise refused from None


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Has torch.compile replace the network's calls, in place: weights, names and hooks stay what they are.

    Compiling itself happens at the first call, and again where shapes or modes differ: the first validation, and the
    last, smaller batch, from where on sizes are left open.

    Args:
        network: it; only its call is replaced.
        device: where it will run; a compiler for it is tried on one line of arithmetic.

    Raises:
        ConfigError: nothing can be compiled for the device here.
    """
    logger.info("Compiling the network: the first steps take long, up to minutes.")
    try:
        torch.compile(_one_line)(torch.ones(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.compile is true, but nothing can be compiled for {device.type} here: {reason} "
            "Install a C++ compiler (CPU: apt install g++) or Triton (GPU), or set training.compile=false."
        ) from error
    network.compile()


def _one_line(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.sin() + 1
