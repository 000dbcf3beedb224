"""Conditions and fits of an ablation, written down before the first fit."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.open import open_dataset
from roadwork.data.splitting.splits import Splits
from roadwork.experiments.cross_validation import check_same_plan, write_or_check_splits
from roadwork.experiments.folds import make_fold_splits
from roadwork.runs.run import Run
from roadwork.settings import Settings, TrainingSettings
from roadwork.settings.sampling import TRAIN_SPLIT

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
KIND = "ablate"


Overrides = dict[str, Any]


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


@dataclass(frozen=True)
class Design:
    """Which fits there are.

    Attributes:
        arms: `parts`, `adapters` or names.
        seeds: seeds 0 to seeds - 1.
        folds: of the grouped cross-validation.
        full: every seed on every fold; else seed s on fold s modulo folds alone.
        steps: optimizer steps of each fit, to the nearest whole epoch; None: the configured epochs.
    """

    arms: str
    seeds: int
    folds: int
    full: bool = False
    steps: int | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(seed, fold) of each fit of an arm: the same for all arms, so that their differences are paired."""
        if self.full:
            return [(seed, fold) for seed in range(self.seeds) for fold in range(self.folds)]
        return [(seed, seed % self.folds) for seed in range(self.seeds)]


@dataclass(frozen=True)
class Fit:
    """One training run, judged on the fold that it has not seen.

    Attributes:
        folder: `<ablation>/fits/<arm>/seed_<s>_fold_<k>/`.
        cfg: the run's configuration.
    """

    arm: str
    seed: int
    fold: int
    folder: Path
    cfg: DictConfig

    @property
    def predictions_file(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def facts_file(self) -> Path:
        """Written last: where it is, the fit is finished, and its predictions are whole."""
        return self.folder / "fit.json"


@dataclass(frozen=True)
class Ablation:
    """The fits of an ablation and what they are made from.

    Attributes:
        folder: `outputs/<experiment>/ablate/<UTC time>/`.
        arms: what each sets, the base first.
        fits: in the order in which they are trained: all arms of one (seed, fold), then those of the next.
        fingerprint: of the data.
    """

    folder: Path
    settings: Settings
    design: Design
    arms: dict[str, Overrides]
    fits: list[Fit]
    fingerprint: str

    @property
    def unfinished(self) -> list[Fit]:
        return [fit for fit in self.fits if not fit.facts_file.is_file()]


def plan_ablation(cfg: DictConfig, design: Design, resume: Path | None = None) -> Ablation:
    """Divides the data into folds and writes down what each fit sets; trains nothing.

    `val_test` is in no fold. A part of the other folds stays `val_select`, as a run needs one; nothing is chosen by it.

    Args:
        cfg: what all arms have in common.
        design: which fits there are.
        resume: the folder of an ablation to go on with; its finished fits are kept.

    Raises:
        RoadworkError: the arms or the data cannot be used so, or the folder is that of another ablation.
    """
    cfg = compose_config(cfg)
    settings = to_settings(cfg)
    _check_one_device(settings)
    arms = select_arms(design.arms, settings.training)
    dataset = open_dataset(settings)
    by_fold = make_fold_splits(
        dataset.table, dataset.groups, dataset.splits, design.folds, seed=settings.data.splitting.seed
    )
    plan: dict[str, Any] = {
        "seeds": design.seeds,
        "folds": design.folds,
        "full": design.full,
        "steps": design.steps,
        "data_fingerprint": dataset.table.fingerprint(),
        "arms": arms,
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    if resume:
        check_same_plan(resume, plan, KIND)
    folder = resume or Run.create(Path(settings.output_dir), f"{settings.experiment}/{KIND}").folder
    for fold, own in enumerate(by_fold):
        write_or_check_splits(own, _splits_file(folder, fold))
    OmegaConf.save(OmegaConf.create(plan), folder / f"{KIND}.yaml")
    epochs = [_count_epochs(own, settings, design.steps) for own in by_fold]
    fits = [
        _make_fit(cfg, folder, (arm, seed, fold), overrides | {"training.epochs": epochs[fold]})
        for seed, fold in design.pairs
        for arm, overrides in arms.items()
    ]
    return Ablation(folder, settings, design, arms, fits, dataset.table.fingerprint())


def _splits_file(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}" / "splits.json"


def _count_epochs(splits: Splits, settings: Settings, steps: int | None) -> int:
    """Whole epochs nearest to so many optimizer steps; the same for each arm of a fold, since batches are."""
    if steps is None:
        return settings.training.epochs
    batch_size = settings.data.dataloader.fixed_batch_size
    batches = math.ceil(len(splits.ids[TRAIN_SPLIT]) / batch_size)
    return max(1, round(steps / math.ceil(batches / settings.training.accumulate)))


def _make_fit(cfg: DictConfig, folder: Path, which: tuple[str, int, int], overrides: Overrides) -> Fit:
    """The fit of an (arm, seed, fold)."""
    arm, seed, fold = which
    name = f"{arm}/seed_{seed}_fold_{fold}"
    own: Overrides = {
        # Weights, order of rows, clusters and augmentation all follow from these: the same in every arm of a pair.
        "training.seed": seed,
        "data.gps_sampling.random_seed": seed,
        "training.patience": 0,  # to stop early would give arms different numbers of steps
        "data.splits_file": str(_splits_file(folder, fold)),
        "output_dir": str(folder / "fits"),
        "experiment": name,
    }
    merged = cast("DictConfig", OmegaConf.merge(cfg))
    for key, value in (overrides | own).items():
        OmegaConf.update(merged, key, value)
    return Fit(arm, seed, fold, folder / "fits" / name, merged)


def _check_one_device(settings: Settings) -> None:
    training = settings.training
    if (training.devices, training.num_nodes) != (1, 1):
        raise ConfigError(
            f"training.devices is {training.devices} and training.num_nodes {training.num_nodes}: an ablation's fits "
            "train on one device each. Set both to 1."
        )
    if settings.data.dataloader.batch_size == "auto":
        raise ConfigError(
            "data.dataloader.batch_size is auto, which could differ between arms, and their steps with it. Give a "
            "number, the same for all."
        )
