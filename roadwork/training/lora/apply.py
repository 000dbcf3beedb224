"""Puts an adapter into a network, and merges it back."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from roadwork.core.errors import ConfigError
from roadwork.training.lora.adalora_config import create_adalora_config
from roadwork.training.lora.ia3_config import create_ia3_config
from roadwork.training.lora.lora_config import create_dora_config, create_lora_config
from roadwork.training.lora.targets import LINEAR_PATTERN, AdapterTargets, resolve_targets
from roadwork.training.lora.vera_config import create_vera_config

# AdaLoRA's schedule needs a length before the data is known; its callback sets the run's own.
STEPS_BEFORE_FIT = 1000


def _lora(targets: AdapterTargets, rank: int, total_steps: int) -> PeftConfig:  # noqa: ARG001 - one signature for all
    return create_lora_config(rank=rank, target_modules=targets.convolutions or LINEAR_PATTERN, head=targets.head)


def _dora(targets: AdapterTargets, rank: int, total_steps: int) -> PeftConfig:  # noqa: ARG001 - one signature for all
    return create_dora_config(rank=rank, target_modules=targets.convolutions or LINEAR_PATTERN, head=targets.head)


def _adalora(targets: AdapterTargets, rank: int, total_steps: int) -> PeftConfig:
    layers = targets.convolutions or LINEAR_PATTERN
    return create_adalora_config(rank=rank, total_step=total_steps, target_modules=layers, head=targets.head)


def _vera(targets: AdapterTargets, rank: int, total_steps: int) -> PeftConfig:  # noqa: ARG001 - one signature for all
    if targets.convolutions:
        raise ConfigError(
            "training.adapter is 'vera', which changes linear layers only, and this network has convolutions only. "
            "Use training.adapter=lora, dora, adalora, ia3 or none, or a vision transformer."
        )
    return create_vera_config(head=targets.head)


def _ia3(targets: AdapterTargets, rank: int, total_steps: int) -> PeftConfig:  # noqa: ARG001 - one signature for all
    if targets.convolutions:
        return create_ia3_config(target_modules=targets.convolutions, feedforward_modules=[], head=targets.head)
    return create_ia3_config(head=targets.head)


ADAPTERS: dict[str, Callable[[AdapterTargets, int, int], PeftConfig]] = {
    "lora": _lora,
    "dora": _dora,
    "adalora": _adalora,
    "vera": _vera,
    "ia3": _ia3,
}


def apply_adapter(model: PreTrainedModel, adapter: str, *, rank: int, total_steps: int) -> PreTrainedModel | PeftModel:
    """The network with an adapter: only the adapter and the head are trained. `model` itself is changed.

    Args:
        model: an image classifier.
        adapter: `none` (the network comes back as it is, all of it trained), lora, dora, adalora, vera or ia3.
        rank: rank of lora and dora, and of adalora after pruning; vera and ia3 have no use for it.
        total_steps: optimizer steps of the whole run; adalora's schedule follows from it.

    Raises:
        ConfigError: the adapter is unknown, or cannot be used with this network or so few steps.
    """
    if adapter == "none":
        return model
    if adapter not in ADAPTERS:
        raise ConfigError(f"training.adapter is {adapter!r}; allowed: none, {', '.join(ADAPTERS)}.")
    config = ADAPTERS[adapter](resolve_targets(model), rank, total_steps)
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 for a name that it deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return get_peft_model(model, config)


def merge_adapter(model: nn.Module) -> PreTrainedModel:
    """The plain network with the adapter's changes in its weights; one without an adapter comes back as it is.

    Raises:
        ValueError: a merged weight is not finite.
    """
    return model.merge_and_unload(safe_merge=True) if isinstance(model, PeftModel) else model
