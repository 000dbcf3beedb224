"""Adds an adapter to a network, and merges it back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from roadwork.core.errors import ConfigError
from roadwork.settings import TrainingSettings
from roadwork.training.lora.adalora_config import create_adalora_config
from roadwork.training.lora.ia3_config import create_ia3_config
from roadwork.training.lora.lora_config import create_dora_config, create_lora_config
from roadwork.training.lora.targets import resolve_targets
from roadwork.training.lora.vera_config import create_vera_config


@dataclass(frozen=True)
class Adapter:
    """A kind of adapter.

    Attributes:
        create_config: makes peft's configuration.
        options: the options of :func:`apply_adapter` that it accepts, besides `targets`.
        adapts_convolutions: whether it can adapt a network without linear layers (ResNet).
    """

    create_config: Callable[..., PeftConfig]
    options: tuple[str, ...]
    adapts_convolutions: bool = True


TOTAL_STEPS = 1000  # nominal length of AdaLoRA's schedule

# settings.ADAPTERS has the same names; a test compares them.
ADAPTERS: dict[str, Adapter] = {
    "lora": Adapter(create_lora_config, ("rank", "alpha", "dropout")),
    "dora": Adapter(create_dora_config, ("rank", "alpha", "dropout")),
    "adalora": Adapter(
        create_adalora_config,
        ("rank", "alpha", "dropout", "total_step", "init_rank", "tinit", "tfinal", "orth_reg_weight"),
    ),
    "vera": Adapter(create_vera_config, ("rank", "dropout"), adapts_convolutions=False),
    "ia3": Adapter(create_ia3_config, ()),
}


def adapt_network(network: PreTrainedModel, training: TrainingSettings) -> PreTrainedModel | PeftModel:
    """The network with the adapter that the settings `training.adapter*` describe; see :func:`apply_adapter`."""
    options = {
        "rank": training.vera_rank if training.adapter == "vera" else training.adapter_rank,
        "alpha": training.adapter_alpha,
        "dropout": training.adapter_dropout,
        "init_rank": training.adalora_init_rank,
        "tinit": max(1, round(training.adalora_warmup * TOTAL_STEPS)),  # AdaLoraCallback scales these to the run
        "tfinal": round(training.adalora_final * TOTAL_STEPS),
        "total_step": TOTAL_STEPS,
        "orth_reg_weight": training.adalora_orthogonality,
    }
    known = ADAPTERS[training.adapter].options if training.adapter in ADAPTERS else ()
    _check_unused(training, known)
    return apply_adapter(
        network,
        training.adapter,
        targets=training.adapter_targets,
        **{name: value for name, value in options.items() if name in known},
    )


def _check_unused(training: TrainingSettings, known: Sequence[str]) -> None:
    """Raises ConfigError for a setting that the chosen adapter would ignore."""
    unset = {"alpha": ("adapter_alpha", None), "dropout": ("adapter_dropout", 0.0)}
    for option, (key, default) in unset.items():
        value = getattr(training, key)
        if option not in known and value != default:
            raise ConfigError(
                f"training.{key} is {value}, which training.adapter={training.adapter} does not use. "
                f"Remove it, or choose one of {', '.join(n for n, a in ADAPTERS.items() if option in a.options)}."
            )


def apply_adapter(
    network: PreTrainedModel, adapter: str, *, targets: Sequence[str] | str | None = None, **options: Any
) -> PreTrainedModel | PeftModel:
    """The network with an adapter: only the adapter and the head are trained. `network` itself is changed.

    Args:
        network: an image classifier.
        adapter: `none` (the network comes back unchanged, all of it trained), lora, dora, adalora, vera or ia3.
        targets: names of the layers to adapt, or a regular expression for full names; null: found by name.
        options: rank, alpha, dropout and so on, as `create_<adapter>_config` has them; null is its default.

    Raises:
        ConfigError: the adapter is unknown, lacks an option, or cannot be used with this network.
    """
    if adapter == "none":
        return network
    if adapter not in ADAPTERS:
        raise ConfigError(f"training.adapter is {adapter!r}; allowed: none, {', '.join(ADAPTERS)}.")
    kind = ADAPTERS[adapter]
    arguments = {name: value for name, value in options.items() if value is not None}
    for name in arguments.keys() - set(kind.options):
        raise ConfigError(
            f"{adapter} has no {name} (it is {arguments[name]}); its options: {', '.join(kind.options) or 'none'}."
        )
    found = resolve_targets(network)
    if found.convolutions and not kind.adapts_convolutions:
        raise ConfigError(
            f"training.adapter is {adapter!r}, which adapts linear layers; this network has convolutions only. "
            "Use training.adapter=lora, dora, adalora, ia3 or none, or a vision transformer."
        )
    if chosen := targets or found.convolutions:
        arguments["target_modules"] = chosen
        if adapter == "ia3" and found.convolutions:
            arguments["feedforward_modules"] = []
    config = kind.create_config(head=found.head, **arguments)
    with warnings.catch_warnings():
        # peft 0.21 reads a name that transformers 5.23 deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        try:
            return get_peft_model(network, config)
        except ValueError as error:
            if targets is None:
                raise
            raise ConfigError(
                f"training.adapter_targets is {targets}, which {adapter} cannot adapt: {str(error).splitlines()[0]}"
            ) from error


def merge_adapter(network: nn.Module) -> PreTrainedModel:
    """The plain network with the adapter's changes in its weights; a network without adapter comes back unchanged.

    Raises:
        ValueError: a merged weight is not finite.
    """
    return network.merge_and_unload(safe_merge=True) if isinstance(network, PeftModel) else network
