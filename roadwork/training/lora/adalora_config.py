"""AdaLoRA: LoRA that prunes its least important ranks while it trains (Zhang et al. 2023, arXiv:2303.10512)."""

from __future__ import annotations

from collections.abc import Sequence

from peft import AdaLoraConfig

from roadwork.core.errors import ConfigError
from roadwork.training.lora.targets import LINEAR_PATTERN

# One step to see which ranks matter, and one to prune after.
MIN_TOTAL_STEP = 2


def create_adalora_config(
    *,
    rank: int = 8,
    init_rank: int | None = None,
    alpha: float | None = None,
    dropout: float = 0.0,
    total_step: int = 1000,
    tinit: int | None = None,
    tfinal: int | None = None,
    delta_t: int = 1,
    orth_reg_weight: float = 0.5,
    target_modules: str | Sequence[str] = LINEAR_PATTERN,
    head: str = "classifier",
) -> AdaLoraConfig:
    """A configuration that adapts all linear layers of a vision transformer and trains its head.

    It prunes nothing by itself: the training loop needs `AdaLoraCallback`, and `adalora_orthogonal_loss` added to a
    loss that the model does not compute itself.

    Args:
        rank: mean rank of a layer after pruning.
        init_rank: rank of each layer at the start, above `rank`; null: half as much again.
        alpha: the added matrix is scaled by alpha / init_rank; null: twice init_rank.
        dropout: fraction of an adapted layer's inputs zeroed before the added matrix.
        total_step: optimizer steps of the run. peft has no default; `AdaLoraCallback` stretches the schedule to
            the run's own number.
        tinit: steps before pruning starts; null: a tenth of total_step.
        tfinal: steps after pruning has ended; null: three tenths of total_step.
        delta_t: steps between prunings. In between the optimizer revives pruned ranks, which an adapter saved then
            loses; with 1 every checkpoint is complete.
        orth_reg_weight: weight of the orthogonality term.
        target_modules: a regular expression for full module names, or a list of names.
        head: the module that is trained and saved in full.

    Raises:
        ConfigError: the run is too short, the phases do not fit into it, or there is nothing to prune.
    """
    _check_total_step(total_step)
    tinit = max(1, total_step // 10) if tinit is None else tinit
    tfinal = 3 * total_step // 10 if tfinal is None else tfinal
    if tinit < 1 or tfinal < 0 or tinit + tfinal >= total_step:
        raise ConfigError(
            f"AdaLoRA's tinit={tinit} must be at least 1, tfinal={tfinal} at least 0, "
            f"and their sum below total_step={total_step}."
        )
    init_rank = rank + max(1, rank // 2) if init_rank is None else init_rank
    if not 1 <= rank < init_rank:
        raise ConfigError(f"AdaLoRA's rank={rank} must be at least 1 and below init_rank={init_rank}.")
    return AdaLoraConfig(
        target_r=rank,
        init_r=init_rank,
        lora_alpha=2 * init_rank if alpha is None else alpha,
        lora_dropout=dropout,
        total_step=total_step,
        tinit=tinit,
        tfinal=tfinal,
        deltaT=delta_t,
        orth_reg_weight=orth_reg_weight,
        target_modules=target_modules if isinstance(target_modules, str) else list(target_modules),
        modules_to_save=[head],
    )


def stretch_schedule(config: AdaLoraConfig, total_step: int) -> None:
    """Scales the configuration's phases, in place, to a run of `total_step` optimizer steps.

    Raises:
        ConfigError: the run is too short.
    """
    _check_total_step(total_step)
    scale = total_step / config.total_step
    config.tinit = min(max(1, round(config.tinit * scale)), total_step - 1)
    config.tfinal = min(round(config.tfinal * scale), total_step - 1 - config.tinit)
    config.total_step = total_step


def _check_total_step(total_step: int) -> None:
    if total_step < MIN_TOTAL_STEP:
        raise ConfigError(
            f"AdaLoRA has {total_step} optimizer steps; it needs at least {MIN_TOTAL_STEP} to prune ranks. "
            "Raise training.epochs, lower training.accumulate, or use training.adapter=lora."
        )
