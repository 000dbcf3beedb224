"""The conditions of an ablation, and the plan of its fits."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from omegaconf import DictConfig

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.splitting.splits import Splits
from roadwork.experiments.plan import ABLATION, Overrides, Plan, begin_plan, check_one_device, count_epoch_steps
from roadwork.settings import Settings, TrainingSettings

logger = logging.getLogger(__name__)

_PLAIN: Overrides = {
    "data.gps_sampling.enabled": False,
    "data.augmentation.train.mode": "none",
    "training.use_ema": False,
}
_GPS: Overrides = {"data.gps_sampling.enabled": True}
_LATEST: Overrides = {"data.augmentation.train.mode": "latest_2025"}
_HEAVY: Overrides = {"data.augmentation.train.mode": "heavy_kornia"}
_EMA: Overrides = {"training.use_ema": True}


def _adapter(name: str, lr: float) -> Overrides:
    is_probe = name == "probe"
    return _PLAIN | {
        "training.adapter": "none" if is_probe else name,
        "training.freeze_backbone": is_probe,
        "training.probe_epochs": 0,
        "training.lr": lr,
    }


# The first condition of each set is the baseline. Few adapters learn at the rate of full fine-tuning, so each has its
# own rate, fixed before the first measurement: ten times the full rate for LoRA and its variants (Schulman et al., LoRA
# Without Regret, 2025), and the rates of their papers for VeRA and IA3 (arXiv:2310.11454 on ViT, arXiv:2205.05638).
CONDITION_SETS: dict[str, dict[str, Overrides]] = {
    "parts": {
        "plain": _PLAIN,
        "gps": _PLAIN | _GPS,
        "latest_2025": _PLAIN | _LATEST,
        "heavy_kornia": _PLAIN | _HEAVY,
        "ema": _PLAIN | _EMA,
        "all": _GPS | _LATEST | _EMA,
    },
    "adapters": {
        "full": _adapter("none", 1e-4),
        "lora": _adapter("lora", 1e-3),
        "dora": _adapter("dora", 1e-3),
        "adalora": _adapter("adalora", 1e-3),
        "vera": _adapter("vera", 4e-3),
        "ia3": _adapter("ia3", 3e-3),
        "probe": _adapter("probe", 3e-3),
    },
}

_NEED_IMAGES = ("latest_2025", "heavy_kornia")


def select_conditions(wanted: str, training: TrainingSettings) -> dict[str, Overrides]:
    """The conditions by name, the baseline first.

    With a frozen backbone, features are computed once, so conditions that change images are skipped and logged.

    Args:
        wanted: `parts`, `adapters`, or comma-separated names from one of the two sets; the baseline is added.
        training: the settings that all conditions share.

    Raises:
        ConfigError: a name is unknown, names come from both sets, only the baseline is named, or the backbone is frozen
            and a named condition needs it trained or needs images.
    """
    names = list(dict.fromkeys(name.strip() for name in wanted.split(",")))
    found = [key for key, conditions in CONDITION_SETS.items() if names == [key] or set(names) <= set(conditions)]
    if not found:
        allowed = "; ".join(f"{key} ({', '.join(conditions)})" for key, conditions in CONDITION_SETS.items())
        raise ConfigError(f"--conditions is {wanted!r}. Give one of these sets, or names from one of them: {allowed}.")
    conditions = CONDITION_SETS[found[0]]
    baseline = next(iter(conditions))
    chosen = {name: conditions[name] for name in conditions if names == found or name in (baseline, *names)}
    if training.freeze_backbone:
        chosen = _without_images(chosen, is_named=names != found)
    if len(chosen) < 2:
        raise ConfigError(f"--conditions is {wanted!r}, the baseline alone. Add a condition to compare with it.")
    return chosen


def _without_images(conditions: dict[str, Overrides], *, is_named: bool) -> dict[str, Overrides]:
    """The conditions that a frozen backbone allows: those that work on features."""
    if "full" in conditions:
        raise ConfigError(
            "training.freeze_backbone is true, but adapters are trained inside the backbone. Remove the key: the "
            "condition `probe` sets it itself."
        )
    skipped = [name for name in conditions if name in _NEED_IMAGES]
    if skipped and is_named:
        raise ConfigError(
            f"--conditions names {', '.join(skipped)}, which changes images, but training.freeze_backbone is true: "
            "features are computed once, from unchanged images. Remove one of the two."
        )
    logger.info(
        "The backbone is frozen and its features are computed once: augmentation conditions are skipped (%s), and "
        "`all` omits augmentation.",
        ", ".join(skipped) or "none",
    )
    none = {"data.augmentation.train.mode": "none"}
    return {name: overrides | none for name, overrides in conditions.items() if name not in skipped}


@dataclass(frozen=True)
class Design:
    """Which fits an ablation has.

    Attributes:
        conditions: `parts`, `adapters` or names.
        seeds: seeds 0 to seeds - 1.
        folds: of the grouped cross-validation.
        full: every seed on every fold; otherwise seed s on fold s modulo folds only.
        steps: optimizer steps of each fit, rounded to whole epochs; None: the configured epochs.
    """

    conditions: str
    seeds: int
    folds: int
    full: bool = False
    steps: int | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(seed, fold) of each fit of a condition: the same for all conditions, so their differences are paired."""
        if self.full:
            return [(seed, fold) for seed in range(self.seeds) for fold in range(self.folds)]
        return [(seed, seed % self.folds) for seed in range(self.seeds)]


def plan_ablation(cfg: DictConfig, design: Design, resume: str | None = None) -> Plan:
    """Divides the data into folds and plans the fits; trains nothing.

    All conditions of one (seed, fold) come first, then those of the next. A part of the training folds becomes
    `val_select`, since a run needs one; the ablation selects nothing by it.

    Args:
        cfg: the configuration that all conditions share.
        design: which fits there are.
        resume: the folder of an ablation to continue, or `latest`; its finished fits are kept.

    Raises:
        RoadworkError: the conditions do not fit the configuration or the data, or the folder holds another ablation.
    """
    settings = to_settings(compose_config(cfg))
    check_one_device(settings)
    conditions = select_conditions(design.conditions, settings.training)
    options = {
        "seeds": design.seeds,
        "folds": design.folds,
        "full": design.full,
        "steps": design.steps,
        "arms": conditions,  # the key in plan files on disk
    }
    plan = begin_plan(cfg, ABLATION, options, resume)
    for seed, fold in design.pairs:
        shared: Overrides = {
            # Initial weights, row order, clusters and augmentation follow from the seeds, equal in all conditions.
            "training.seed": seed,
            "data.gps_sampling.random_seed": seed,
            "training.patience": 0,  # early stopping would give conditions different numbers of steps
            "training.epochs": _count_epochs(plan.splits[fold], settings, design.steps),
        }
        for condition, overrides in conditions.items():
            plan.add_fit(fold, condition, seed, overrides | shared)
    return plan


def _count_epochs(splits: Splits, settings: Settings, steps: int | None) -> int:
    """Whole epochs nearest to this many optimizer steps; the same for all conditions of a fold."""
    if steps is None:
        return settings.training.epochs
    return max(1, round(steps / count_epoch_steps(splits, settings)))
