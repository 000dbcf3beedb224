"""What an ablation will train, written down before the first fit, and checked when it is resumed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config, to_settings
from roadwork.data.source import find_groups, find_splits, read_dataset
from roadwork.data.splits import Splits
from roadwork.errors import ConfigError
from roadwork.experiments.ablate_arms import Overrides, select_arms
from roadwork.experiments.cv_plan import check_same_plan, write_or_check_splits
from roadwork.experiments.fold_splits import TRAINING, make_fold_splits
from roadwork.runs import create_run_folder
from roadwork.settings import Settings

KIND = "ablate"


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
    table, source = read_dataset(settings.data)
    groups = find_groups(settings.data, table, source)
    splits = find_splits(settings, table, groups)
    by_fold = make_fold_splits(table, groups, splits, design.folds, seed=settings.data.splitting.seed)
    plan: dict[str, Any] = {
        "seeds": design.seeds,
        "folds": design.folds,
        "full": design.full,
        "steps": design.steps,
        "data_fingerprint": table.fingerprint(),
        "arms": arms,
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    if resume:
        check_same_plan(resume, plan, KIND)
    folder = resume or create_run_folder(Path(settings.output_dir), f"{settings.experiment}/{KIND}")
    for fold, own in enumerate(by_fold):
        write_or_check_splits(own, _splits_file(folder, fold))
    OmegaConf.save(OmegaConf.create(plan), folder / f"{KIND}.yaml")
    epochs = [_count_epochs(own, settings, design.steps) for own in by_fold]
    fits = [
        _make_fit(cfg, folder, (arm, seed, fold), overrides | {"training.epochs": epochs[fold]})
        for seed, fold in design.pairs
        for arm, overrides in arms.items()
    ]
    return Ablation(folder, settings, design, arms, fits, table.fingerprint())


def _splits_file(folder: Path, fold: int) -> Path:
    return folder / f"fold_{fold}" / "splits.json"


def _count_epochs(splits: Splits, settings: Settings, steps: int | None) -> int:
    """Whole epochs nearest to so many optimizer steps; the same for each arm of a fold, since batches are."""
    if steps is None:
        return settings.training.epochs
    batch_size: int = settings.data.dataloader.batch_size
    batches = math.ceil(len(splits.ids[TRAINING]) / batch_size)
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
