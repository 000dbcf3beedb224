"""Learning rates that fall from the head to the embeddings, by how deep each parameter lies."""

from __future__ import annotations

import logging
import re
from typing import Any

from torch import nn

from roadwork.errors import ConfigError

logger = logging.getLogger(__name__)

# `layers.3`, `encoder.layer.3`, `blocks.3` are blocks; so are `stages.1.layers.0` and `layers.1.blocks.0` (Swin) inside
# their stages. What comes before it in a name are the network's own parts and peft's.
_BLOCK = re.compile(r"(?:^|\.)(?:stages|layers|layer|blocks)\.\d+(?P<inner>\.(?:layers|blocks)\.\d+)?(?=\.)")


def parameter_depths(network: nn.Module) -> dict[str, int]:
    """The depth of each parameter by its name: 0 for the embeddings, 1 for the first block, and so on.

    The highest is that of all behind the last block: norms and the head, as in BEiT's and MAE's code. A layer between
    two stages belongs to the block after it, or to the one before it where it ends a stage (Swin).

    Args:
        network: with or without a peft adapter; its parts come in the order in which it runs through them.

    Raises:
        ConfigError: no blocks are found in it.
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
            f"training.layer_decay is below 1, but no blocks were found in {type(network).__name__}: its parameters "
            f"have names like {next(iter(found))}, and blocks are named layers.0, layer.0, blocks.0 or "
            "stages.0.layers.0. Set training.layer_decay=1."
        )
    return {name: depths.get(name, len(blocks) + 1) for name in found}


def split_by_depth(
    network: nn.Module, groups: list[dict[str, Any]], lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """An optimizer's groups divided by depth, the head's first: its `lr` is the one that logs show as the run's.

    Args:
        network: whose parameters the groups have.
        groups: as an optimizer takes them; each that comes out keeps the other keys of the one that it is part of.
        lr: of the head.
        layer_decay: the learning rate of a depth is that of the next one times this.

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
