"""Finds the layers that adapters change by their names, and summarises what is trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from roadwork.core.errors import ConfigError
from roadwork.models.head import HEAD_NAMES, find_head

# Classification does not use pooling heads (SigLIP's): adapted, their parameters would never get a gradient.
_OUTSIDE_HEADS = rf"(?!(?:.*\.)?(?:{'|'.join(HEAD_NAMES)}|pooler)(?:\.|$))(?:.*\.)?"

# transformers 5 | transformers 4, Swin | SigLIP, CLIP | timm
_KEYS_VALUES = r"k_proj|v_proj|key|value"
_ATTENTION = rf"{_KEYS_VALUES}|q_proj|o_proj|query|attention\.output\.dense|self_attn\.out_proj|attn\.qkv|attn\.proj"

# The second feed-forward layer: ViT, DINOv2 | DINOv3 | ConvNeXt | DINOv3 ConvNeXt | giant DINOv2 | transformers 4, Swin
_FEEDFORWARD_OUT = r"fc2|down_proj|pwconv2|pointwise_conv2|weights_out|(?<!attention\.)output\.dense"
_FEEDFORWARD = rf"{_FEEDFORWARD_OUT}|fc1|up_proj|gate_proj|pwconv1|pointwise_conv1|weights_in|intermediate\.dense"

# Regular expressions for peft, which matches them against a module's full name.
ATTENTION_PATTERN = rf"{_OUTSIDE_HEADS}(?:{_ATTENTION})"
FEEDFORWARD_PATTERN = rf"{_OUTSIDE_HEADS}(?:{_FEEDFORWARD})"
LINEAR_PATTERN = rf"{_OUTSIDE_HEADS}(?:{_ATTENTION}|{_FEEDFORWARD})"
FEEDFORWARD_OUT_PATTERN = rf"{_OUTSIDE_HEADS}(?:{_FEEDFORWARD_OUT})"
IA3_PATTERN = rf"{_OUTSIDE_HEADS}(?:{_KEYS_VALUES}|attn\.qkv|{_FEEDFORWARD_OUT})"

# "vit.layers.3." of "vit.layers.3.attention.q_proj": up to the last number that is a module's name.
_BLOCK = re.compile(r".*\.\d+\.")


@dataclass(frozen=True)
class AdapterTargets:
    """The modules of a network that adapters can change, by name.

    Attributes:
        attention: linear layers for queries, keys, values and the attention's output.
        feedforward: linear layers of the feed-forward blocks.
        convolutions: ungrouped convolutions, only if the network has no such linear layers (ResNet).
        head: the layer that returns logits; trained and saved in full.
    """

    attention: list[str]
    feedforward: list[str]
    convolutions: list[str]
    head: str


def resolve_targets(model: nn.Module) -> AdapterTargets:
    """Finds a network's layers for adapters, under the names of transformers 5, transformers 4 or timm.

    Raises:
        ConfigError: the network has no such layer, or no head.
    """
    head = find_head(model)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    attention = [name for name in linear if re.fullmatch(ATTENTION_PATTERN, name)]
    feedforward = [name for name in linear if re.fullmatch(FEEDFORWARD_PATTERN, name)]
    convolutions: list[str] = []
    if not attention and not feedforward:
        convolutions = [
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d) and module.groups == 1 and not name.startswith(f"{head}.")
        ]
        if not convolutions:
            raise ConfigError(
                f"No layer of {type(model).__name__} has a name known to adapters; its linear layers are "
                f"{', '.join(linear[:8]) or 'none'}. Use training.adapter=none."
            )
    return AdapterTargets(attention, feedforward, convolutions, _head_layer(model, head))


def _head_layer(model: nn.Module, head: str) -> str:
    # peft 0.21 cannot merge IA3 next to a trained container, such as ResNet's head: Flatten, then Linear.
    layers = {name.rpartition(".")[0] for name, _ in model.get_submodule(head).named_parameters(prefix=head)}
    return layers.pop() if len(layers) == 1 else head


@dataclass(frozen=True)
class AdapterSummary:
    """What a model trains.

    Attributes:
        adapter: its name, or None.
        trainable: number of trained parameters, the head's included.
        total: number of all parameters.
        targets: the adapted modules, by their names in the network without adapter.
    """

    adapter: str | None
    trainable: int
    total: int
    targets: list[str]

    def __str__(self) -> str:
        share = f"{self.trainable:,} of {self.total:,} parameters ({100 * self.trainable / self.total:.3g} %)"
        if self.adapter is None:
            return f"trains {share}, without an adapter"
        return f"trains {share}: {self.adapter} on {group_targets(self.targets)}, and the head"


def adapter_summary(model: nn.Module) -> AdapterSummary:
    """Counts a model's trained parameters and adapted layers."""
    parameters = list(model.parameters())
    network = model.get_base_model() if isinstance(model, PeftModel) else model
    return AdapterSummary(
        adapter=_adapter_of(model),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
        targets=[name for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)],
    )


def group_targets(targets: Sequence[str]) -> str:
    """Shortens names such as `vit.layers.0.attention.query` to "query, value, fc1, fc2 in 12 blocks: 48 layers"."""
    kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in targets))
    blocks = {found[0] for name in targets if (found := _BLOCK.match(name))}
    where = f" in {len(blocks)} blocks" if 1 < len(blocks) < len(targets) else ""
    return f"{kinds}{where}: {len(targets)} layers"


def _adapter_of(model: nn.Module) -> str | None:
    if not isinstance(model, PeftModel):
        return None
    config = model.peft_config[model.active_adapter]
    return "dora" if getattr(config, "use_dora", False) else config.peft_type.value.lower()
