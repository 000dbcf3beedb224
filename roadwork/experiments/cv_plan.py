"""What a cross-validation will do, written down before the first fold is trained, and checked when it is resumed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config, load_yaml, to_settings
from roadwork.data.groups import Groups
from roadwork.data.images import ImageSource
from roadwork.data.source import find_groups, find_splits, read_dataset
from roadwork.data.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.errors import ConfigError, DataError, SplitError
from roadwork.experiments.fold_splits import make_fold_splits
from roadwork.experiments.folds import find_regions
from roadwork.runs import create_run_folder
from roadwork.settings import Settings
from roadwork.training.trainers.resume import MACHINE_KEYS, flat_keys

PLAN_FILE = "cv.yaml"
# What can change between the folds of one cross-validation: `evaluation` is read after training, and other splits or
# other data are found out by their rows.
_MAY_DIFFER = (*MACHINE_KEYS, "evaluation.")


@dataclass(frozen=True)
class Fold:
    """One fold: a run of its own.

    Attributes:
        number: from 0.
        folder: `<cross-validation>/fold_<number>/`: its splits, its run, and its predictions once it is done.
        cfg: the run's configuration.
        splits: `val_calib` is the held-out fold.
    """

    number: int
    folder: Path
    cfg: DictConfig
    splits: Splits

    @property
    def predictions_file(self) -> Path:
        """It is there once the fold is finished, and whole."""
        return self.folder / "predictions.parquet"


@dataclass(frozen=True)
class CrossValidation:
    """The folds of a dataset and what they are made from.

    Attributes:
        folder: `outputs/<experiment>/cv/<UTC time>/`.
        regions: (N,) region of each row where whole regions are held out, else None.
    """

    folder: Path
    settings: Settings
    table: SampleTable
    source: ImageSource
    groups: Groups
    folds: list[Fold]
    regions: np.ndarray | None

    @property
    def unfinished(self) -> list[Fold]:
        return [fold for fold in self.folds if not fold.predictions_file.is_file()]


def plan_cross_validation(
    cfg: DictConfig, n_folds: int, by: str | None = None, resume: Path | None = None
) -> CrossValidation:
    """Divides the data into folds and writes what each fold's run needs; trains nothing.

    Args:
        cfg: the configuration of each run.
        n_folds: 2 or more.
        by: `region` holds out whole regions.
        resume: the folder of a cross-validation to go on with; its finished folds are kept.

    Raises:
        RoadworkError: the data cannot be divided so, or the folder is that of another cross-validation.
    """
    cfg = compose_config(cfg)
    settings = to_settings(cfg)
    data = settings.data
    table, source = read_dataset(data)
    groups = find_groups(data, table, source)
    splits = find_splits(settings, table, groups)
    regions = find_regions(table, data.splitting.region_column) if by == "region" else None
    fold_splits = make_fold_splits(table, groups, splits, n_folds, seed=data.splitting.seed, regions=regions)
    plan = {
        "folds": n_folds,
        "by": by,
        "data_fingerprint": table.fingerprint(),
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    if resume:
        _check_same_plan(resume, plan)
    folder = resume or create_run_folder(Path(settings.output_dir), f"{settings.experiment}/cv")
    folds = []
    for number, own in enumerate(fold_splits):
        fold_folder = folder / f"fold_{number}"
        _write_or_check_splits(own, fold_folder / "splits.json")
        overrides = {
            "data": {"splits_file": str(fold_folder / "splits.json")},
            "output_dir": str(folder),
            "experiment": fold_folder.name,
        }
        folds.append(Fold(number, fold_folder, cast("DictConfig", OmegaConf.merge(cfg, overrides)), own))
    OmegaConf.save(OmegaConf.create(plan), folder / PLAN_FILE)
    return CrossValidation(folder, settings, table, source, groups, folds, regions)


def _check_same_plan(folder: Path, plan: dict[str, Any]) -> None:
    if not (folder / PLAN_FILE).is_file():
        raise DataError(
            f"{folder} is no cross-validation: it has no {PLAN_FILE}. "
            "Name outputs/<experiment>/cv/<time>, or `latest`, or leave --resume out."
        )
    before, now = flat_keys(OmegaConf.to_container(load_yaml(folder / PLAN_FILE))), flat_keys(plan)
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        raise DataError(
            f"{folder} was begun with other data: rows, labels, positions or sequences have changed since, in the "
            "dataset or in data.label_corrections. Restore them, or start anew without --resume."
        )
    options = {"folds": "--folds", "by": "--by"}
    differing = [
        f"{options.get(key, key.removeprefix('config.'))} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before | now)
        if not key.removeprefix("config.").startswith(_MAY_DIFFER) and before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was begun otherwise: {'; '.join(differing[:5])}. Set these back, or start anew without --resume."
        )


def _write_or_check_splits(splits: Splits, path: Path) -> None:
    """Writes a fold's splits; where a resumed fold has some, they must be the same rows."""
    if path.is_file():
        try:
            written = {name: set(ids) for name, ids in json.loads(path.read_bytes())["splits"].items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise SplitError(
                f"{path} is damaged. Remove {path.parent} to train this fold again with --resume."
            ) from None
        if written != {name: set(ids) for name, ids in splits.ids.items()}:
            raise SplitError(
                f"{path} holds other rows than this data, its splits and its groups give now. "
                "Restore data.splits_file and the images, or start anew without --resume."
            )
        return
    splits.write(path)


def find_cross_validation(settings: Settings, wanted: str) -> Path:
    """The folder that `--resume` names: a folder, or the experiment's `latest`.

    Raises:
        DataError: it is not there.
    """
    latest = Path(settings.output_dir) / settings.experiment / "cv" / "latest"
    folder = latest if wanted == "latest" else Path(wanted)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} to resume. Start a cross-validation without --resume.")
    return folder.resolve()
