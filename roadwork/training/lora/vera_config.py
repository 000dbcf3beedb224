"""VeRA: two trained vectors per layer around shared random matrices (Kopiczko et al. 2023, arXiv:2310.11454)."""

from __future__ import annotations

from collections.abc import Sequence

from peft import VeraConfig

from roadwork.training.lora.targets import LINEAR_PATTERN


def create_vera_config(
    *,
    rank: int = 256,
    dropout: float = 0.0,
    d_initial: float = 0.1,
    projection_seed: int = 0,
    target_modules: str | Sequence[str] = LINEAR_PATTERN,
    head: str = "classifier",
) -> VeraConfig:
    """A configuration that adapts all linear layers of a vision transformer and trains its head.

    Args:
        rank: rank of the shared matrices; much larger than LoRA's, since a rank costs one trained number per layer.
        dropout: fraction of an adapted layer's inputs zeroed before the shared matrices.
        d_initial: initial value of the vector of length rank; the paper's choice.
        projection_seed: seed of the shared matrices, which are saved with the adapter.
        target_modules: a regular expression for full module names, or a list of names; linear layers only.
        head: the module that is trained and saved in full.
    """
    return VeraConfig(
        r=rank,
        vera_dropout=dropout,
        d_initial=d_initial,
        projection_prng_key=projection_seed,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        modules_to_save=[head],
    )
