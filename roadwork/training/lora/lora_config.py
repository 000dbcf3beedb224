"""LoRA (Hu et al. 2021, arXiv:2106.09685) and DoRA (Liu et al. 2024, arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig

from roadwork.training.lora.targets import LINEAR_PATTERN


def create_lora_config(
    *,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    target_modules: str | Sequence[str] = LINEAR_PATTERN,
    head: str = "classifier",
    use_dora: bool = False,
) -> LoraConfig:
    """A configuration that adapts all linear layers of a vision transformer and trains its head.

    Args:
        rank: rank of each added matrix.
        alpha: the added matrix is scaled by alpha / rank; null: twice the rank.
        dropout: fraction of an adapted layer's inputs zeroed before the added matrix.
        target_modules: a regular expression for full module names, or a list of names.
        head: the module that is trained and saved in full.
        use_dora: decompose each weight into magnitude and direction.
    """
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        modules_to_save=[head],
        use_dora=use_dora,
    )


def create_dora_config(**options: Any) -> LoraConfig:
    """As :func:`create_lora_config`, for DoRA: LoRA that trains each weight's magnitude apart from its direction."""
    return create_lora_config(use_dora=True, **options)
