"""IA3: a trained factor for each key, value and inner feed-forward activation (Liu et al. 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Sequence

from peft import IA3Config

from roadwork.training.lora.targets import FEEDFORWARD_OUT_PATTERN, IA3_PATTERN


def create_ia3_config(
    *,
    target_modules: str | Sequence[str] = IA3_PATTERN,
    feedforward_modules: str | Sequence[str] = FEEDFORWARD_OUT_PATTERN,
    head: str = "classifier",
) -> IA3Config:
    """A configuration that scales what the paper scales in a vision transformer, and trains its head.

    Args:
        target_modules: a regular expression for full module names, or a list of names.
        feedforward_modules: the targets whose inputs are scaled; of the others the outputs are. A list must contain
            names of target_modules, and may be empty.
        head: the module that is trained and saved in full.
    """
    return IA3Config(
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        feedforward_modules=feedforward_modules if isinstance(feedforward_modules, str) else list(feedforward_modules),
        modules_to_save=[head],
    )
