"""The arms of the ablation: what each sets on top of one common configuration."""

from __future__ import annotations

import logging
from typing import Any

from roadwork.errors import ConfigError
from roadwork.settings import TrainingSettings

logger = logging.getLogger(__name__)

Overrides = dict[str, Any]

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
    choice = {"training.adapter": name, "training.freeze_backbone": name == "probe", "training.probe_epochs": 0}
    return _PLAIN | choice | {"training.lr": lr} | ({"training.adapter": "none"} if name == "probe" else {})


# The first of each set is what the others are held against. Few adapters learn at the rate of full fine-tuning, so each
# has its own, fixed before anything was measured: LoRA and its kin ten times that of full fine-tuning (Schulman et al.,
# LoRA Without Regret, 2025), VeRA and IA3 those of their papers (arXiv:2310.11454 on ViT, arXiv:2205.05638).
ARM_SETS: dict[str, dict[str, Overrides]] = {
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


def select_arms(wanted: str, training: TrainingSettings) -> dict[str, Overrides]:
    """The arms by name, the base first.

    On a frozen backbone features are computed once, so what changes the images is no arm; that is said.

    Args:
        wanted: `parts`, `adapters`, or names of one of the two sets, separated by commas; the set's base is added.
        training: the common configuration's.

    Raises:
        ConfigError: an unknown name, names of both sets, the base alone, or arms that a frozen backbone does not allow.
    """
    names = list(dict.fromkeys(name.strip() for name in wanted.split(",")))
    found = [key for key, arms in ARM_SETS.items() if names == [key] or set(names) <= set(arms)]
    if not found:
        allowed = "; ".join(f"{key} ({', '.join(arms)})" for key, arms in ARM_SETS.items())
        raise ConfigError(f"--arms is {wanted!r}; allowed: one of these sets, or names from one of them: {allowed}.")
    arms = ARM_SETS[found[0]]
    base = next(iter(arms))
    chosen = {name: arms[name] for name in arms if names == found or name in (base, *names)}
    if training.freeze_backbone:
        chosen = _without_images(chosen, is_named=names != found)
    if len(chosen) < 2:
        raise ConfigError(f"--arms is {wanted!r}, the base alone. Name what is held against it, too.")
    return chosen


def _without_images(arms: dict[str, Overrides], *, is_named: bool) -> dict[str, Overrides]:
    """The arms that a frozen backbone leaves: those that work on features."""
    if "full" in arms:
        raise ConfigError(
            "training.freeze_backbone is true, and adapters are trained inside the backbone. Leave it out: the arm "
            "`probe` sets it for itself."
        )
    left_out = [name for name in arms if name in _NEED_IMAGES]
    if left_out and is_named:
        raise ConfigError(
            f"--arms names {', '.join(left_out)}, which changes images, but training.freeze_backbone is true: features "
            "are computed once, of unchanged images. Leave one of the two out."
        )
    logger.info(
        "The backbone is frozen, and its features are computed once: augmentation is no arm here (%s left out), and "
        "`all` is all but augmentation.",
        ", ".join(left_out) or "none",
    )
    none = {"data.augmentation.train.mode": "none"}
    return {name: overrides | none for name, overrides in arms.items() if name not in left_out}
