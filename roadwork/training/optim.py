"""The optimizer, layer-wise learning rate decay, and the schedule."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from roadwork.core.errors import ConfigError, WiringError

logger = logging.getLogger(__name__)

# `layers.3`, `encoder.layer.3`, `blocks.3` are blocks; so are `stages.1.layers.0` and `layers.1.blocks.0` (Swin) inside
# their stages. Prefixes of the network and of peft come before.
_BLOCK = re.compile(r"(?:^|\.)(?:stages|layers|layer|blocks)\.\d+(?P<inner>\.(?:layers|blocks)\.\d+)?(?=\.)")

# Embeddings of positions and tokens, under timm's and transformers' names; biases and norms are found by their shape.
_NOT_DECAYED = (
    "position_embedding",
    "pos_embed",
    "relative_position_bias",
    "cls_token",
    "mask_token",
    "register_token",
    "distillation_token",
)

# Devices for which torch has a fused AdamW.
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


def parameter_depths(network: nn.Module) -> dict[str, int]:
    """The depth of each parameter by its name: 0 for the embeddings, 1 for the first block, and so on.

    The norms and the head after the last block have the highest depth, as in BEiT's and MAE's code. A layer between two
    stages belongs to the block after it, or to the block before it if it ends a stage (Swin).

    Args:
        network: with or without a peft adapter; its modules are in the order of the forward pass.

    Raises:
        ConfigError: no blocks are found.
    """
    found = {name: _BLOCK.search(name) for name, _ in network.named_parameters()}
    stages = {name[: match.start("inner")] for name, match in found.items() if match and match["inner"]}
    blocks: dict[str, int] = {}
    depths: dict[str, int] = {}
    for name, match in found.items():
        path = name[: match.end()] if match else ""
        if path in stages:  # between two stages
            has_begun = any(block.startswith(f"{path}.") for block in blocks)
            depths[name] = len(blocks) if has_begun else len(blocks) + 1
        elif path:
            depths[name] = blocks.setdefault(path, len(blocks) + 1)
        elif not blocks:
            depths[name] = 0
    if not blocks:
        raise ConfigError(
            f"training.layer_decay is below 1, but {type(network).__name__} has no known blocks. Its parameters "
            f"are named like {next(iter(found))}; blocks are named layers.0, layer.0, blocks.0 or "
            "stages.0.layers.0. Set training.layer_decay=1."
        )
    return {name: depths.get(name, len(blocks) + 1) for name in found}


def split_by_depth(
    network: nn.Module, groups: list[dict[str, Any]], lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """An optimizer's parameter groups split by depth, the head's first: logs show the first group's learning rate.

    Args:
        network: owns the groups' parameters.
        groups: as an optimizer takes them; the split groups keep the other keys.
        lr: of the head.
        layer_decay: a depth's learning rate is that of the next depth times this.

    Raises:
        ConfigError: no blocks are found in the network.
    """
    by_name = parameter_depths(network)
    depth_of = {id(p): by_name[name] for name, p in network.named_parameters()}
    deepest = max(by_name.values())
    divided: list[dict[str, Any]] = []
    for depth in sorted(set(depth_of.values()), reverse=True):
        layer = "embeddings" if depth == 0 else "head" if depth == deepest else f"block {depth}"
        for number, group in enumerate(groups):
            params = [p for p in group["params"] if depth_of[id(p)] == depth]
            if params:
                name = f"{layer}, not decayed" if number else layer
                divided.append(group | {"params": params, "lr": lr * layer_decay ** (deepest - depth), "name": name})
    last, first = divided[-1], divided[0]
    logger.info(
        "Learning rates from %.2g (%s) to %.2g (%s), in %d groups.",
        *(last["lr"], last["name"].split(",")[0], first["lr"], first["name"], len(divided)),
    )
    return divided


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters in up to two groups: with weight decay, and without.

    Without decay are vectors (biases, norms, layer scale, IA3's factors) and the embeddings of positions and tokens:
    decay would pull a scale or a position towards zero.

    Raises:
        WiringError: no parameter is trainable.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_vector = parameter.numel() == max(parameter.shape, default=1)
            is_plain = is_vector or any(part in name for part in _NOT_DECAYED)
            (plain if is_plain else decayed).append(parameter)
    if not decayed and not plain:
        raise WiringError(
            "No parameter of the model requires a gradient, so nothing would be trained. Unfreeze its head."
        )
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(
    model: nn.Module, lr: float, weight_decay: float, *, layer_decay: float = 1.0, fused: bool = False
) -> AdamW:
    """AdamW over the trainable parameters, in the groups of :func:`parameter_groups`.

    Raises:
        ConfigError: `layer_decay` is below 1, and the model's blocks are unknown.
    """
    groups = parameter_groups(model, weight_decay)
    if layer_decay < 1:
        groups = split_by_depth(model, groups, lr, layer_decay)
    optimizer = AdamW(groups, lr=lr, fused=fused or None)
    optimizer.register_load_state_dict_post_hook(_fit_loaded_state)
    return optimizer


def use_fused(wanted: bool | None, parameters: Iterable[Tensor], precision: str) -> bool:
    """Whether to use the fused AdamW: as `wanted`, or, if that is None, whenever it is available.

    It needs floating-point parameters on a device that has the kernel. It does not work with 16-mixed, where it would
    undo the loss scale itself, after the gradients were clipped.

    Args:
        wanted: `training.fused_optimizer`.
        parameters: the trained ones, on their device.
        precision: Lightning's name for it.

    Raises:
        ConfigError: it is wanted but not available.
    """
    reason = ""
    if precision == "16-mixed":
        reason = "training.precision is 16-mixed, whose loss scale and clipping need the gradients before the step"
    elif unfit := [p for p in parameters if p.device.type not in _FUSED_DEVICES or not p.is_floating_point()]:
        reason = f"it has no kernel for {unfit[0].dtype} on {unfit[0].device.type}"
    if wanted and reason:
        raise ConfigError(
            f"training.fused_optimizer is true, but {reason}. Set it to null (used when available) or to false."
        )
    return wanted is not False and not reason


def _fit_loaded_state(optimizer: Optimizer) -> None:
    """Adapts a checkpoint's optimizer state to this optimizer, which may be fused where the saved one was not.

    The fused kernels read weights and averages in memory order. On a CPU they do not check strides, so the state of a
    run with another `training.channels_last` would silently give wrong weights.
    """
    fused = optimizer.defaults["fused"]
    for group in optimizer.param_groups:
        group["fused"] = fused
    for parameter, state in optimizer.state.items():
        state["step"] = state["step"].to(parameter.device if fused else "cpu")
        for name in ("exp_avg", "exp_avg_sq"):
            if state[name].stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=state[name].dtype).copy_(state[name])


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup_share: float) -> LambdaLR:
    """A learning rate that rises linearly to the optimizer's own, then falls by half a cosine.

    The cosine is that of SGDR (Loshchilov and Hutter, 2017), without restarts. Every step has a rate above 0: the rate
    would reach 0 one step after the last.

    Args:
        optimizer: step the schedule after each of its steps.
        total_steps: optimizer steps of the complete run.
        warmup_share: fraction of the steps over which the rate rises, 0 to 1.

    Raises:
        ConfigError: the number of steps is below 1, or the fraction outside [0, 1].
    """
    if total_steps < 1:
        raise ConfigError(f"The run has {total_steps} optimizer steps; it needs at least 1.")
    if not 0 <= warmup_share <= 1:
        raise ConfigError(f"training.warmup is {warmup_share}; it must be between 0.0 and 1.0.")
    warmup_steps = round(total_steps * warmup_share)

    def factor(steps_done: int) -> float:
        step = steps_done + 1
        if step <= warmup_steps:
            return step / warmup_steps
        progress = (step - warmup_steps) / (total_steps + 1 - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return LambdaLR(optimizer, factor)
