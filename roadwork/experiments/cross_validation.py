"""Cross-validation over everything but val_test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import matthews_corrcoef

from roadwork.config import compose_config, load_yaml, to_settings
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.core.files import write_json
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.grouping.groups import Groups
from roadwork.data.images import ImageSource
from roadwork.data.open import open_dataset
from roadwork.data.splitting.splits import Splits
from roadwork.data.table import SampleTable
from roadwork.evaluation.evaluate import load_best_model, predict_splits
from roadwork.experiments.folds import find_regions, make_fold_splits
from roadwork.metrics.decision import decide
from roadwork.metrics.predictions import read_predictions, write_predictions
from roadwork.metrics.results import evaluate_for
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import CALIBRATION_SPLIT
from roadwork.training.trainers.factory import prepare_trainer
from roadwork.training.trainers.resume import MACHINE_KEYS, flat_keys

PLAN_FILE = "cv.yaml"

# What can be resumed with its plan, and what it is called.
KINDS = {"cv": "cross-validation", "ablate": "ablation"}

# What can change between the folds of one cross-validation: `evaluation` is read after training, `tracking` says where
# curves go, and other splits or other data are found out by their rows.
_MAY_DIFFER = (*MACHINE_KEYS, "evaluation.", "tracking.")


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
    dataset = open_dataset(settings)
    table, groups, splits = dataset.table, dataset.groups, dataset.splits
    regions = find_regions(table, data.splitting.region_column) if by == "region" else None
    fold_splits = make_fold_splits(table, groups, splits, n_folds, seed=data.splitting.seed, regions=regions)
    plan = {
        "folds": n_folds,
        "by": by,
        "data_fingerprint": table.fingerprint(),
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    if resume:
        check_same_plan(resume, plan)
    folder = resume or Run.create(Path(settings.output_dir), f"{settings.experiment}/cv").folder
    folds = []
    for number, own in enumerate(fold_splits):
        fold_folder = folder / f"fold_{number}"
        write_or_check_splits(own, fold_folder / "splits.json")
        overrides = {
            "data": {"splits_file": str(fold_folder / "splits.json")},
            "output_dir": str(folder),
            "experiment": fold_folder.name,
        }
        folds.append(Fold(number, fold_folder, cast("DictConfig", OmegaConf.merge(cfg, overrides)), own))
    OmegaConf.save(OmegaConf.create(plan), folder / PLAN_FILE)
    return CrossValidation(folder, settings, table, dataset.source, groups, folds, regions)


def check_same_plan(folder: Path, plan: dict[str, Any], kind: str = "cv") -> None:
    """Checks what is to be resumed against what is asked for now.

    Args:
        folder: holds the plan that was written down, `<kind>.yaml`.
        plan: that of now: the command's options, `data_fingerprint`, and `config`.
        kind: of `KINDS`.

    Raises:
        DataError: the folder is another kind's, or was begun with other data.
        ConfigError: an option or a key differs.
    """
    plan_file = folder / f"{kind}.yaml"
    if not plan_file.is_file():
        raise DataError(
            f"{folder} is no {KINDS[kind]}: it has no {plan_file.name}. "
            f"Name outputs/<experiment>/{kind}/<time>, or `latest`, or leave --resume out."
        )
    before, now = flat_keys(OmegaConf.to_container(load_yaml(plan_file))), flat_keys(plan)
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        raise DataError(
            f"{folder} was begun with other data: rows, labels, positions or sequences have changed since, in the "
            "dataset or in data.label_corrections. Restore them, or start anew without --resume."
        )
    options = [key for key, value in plan.items() if not isinstance(value, dict)]
    differing = [
        f"{f'--{key}' if key in options else key.removeprefix('config.')} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before | now)
        if not key.removeprefix("config.").startswith(_MAY_DIFFER) and before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was begun otherwise: {'; '.join(differing[:5])}. Set these back, or start anew without --resume."
        )


def write_or_check_splits(splits: Splits, path: Path) -> None:
    """Writes a fold's splits; where a resumed fold has some, they must be the same rows.

    Raises:
        SplitError: they are others, or the file is damaged.
    """
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


def find_begun(settings: Settings, wanted: str, kind: str = "cv") -> Path:
    """The folder that `--resume` names: a folder, or the experiment's `latest` of this kind.

    Raises:
        DataError: it is not there.
    """
    latest = Path(settings.output_dir) / settings.experiment / kind / "latest"
    folder = latest if wanted == "latest" else Path(wanted)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} to resume. Start a new {KINDS[kind]} without --resume.")
    return folder.resolve()


def train_fold(datamodule: NATIXDataModule, fold: Fold) -> pd.DataFrame:
    """Trains a fold's run and predicts its held-out rows with the checkpoint that did best on its `val_select`.

    Args:
        datamodule: of `fold.cfg`.
        fold: where the run and the predictions are written to.

    Returns:
        The predictions table of the held-out rows; their split is the fold's name.
    """
    run_folder = prepare_trainer(datamodule).fit(datamodule)
    frame = predict_splits(datamodule, load_best_model(run_folder, datamodule.settings), [CALIBRATION_SPLIT])
    frame["split"] = fold.folder.name
    write_predictions(frame, fold.predictions_file)
    return frame


def pool_folds(cross_validation: CrossValidation) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Pools the folds' predictions; writes `oof_predictions.parquet`, `results.json` and the manifest.

    The interval is over groups of rows. What other seeds of training would change is not in it.

    Returns:
        The pooled table, and the pooled figures with `folds`, those of each fold.
    """
    settings, folder = cross_validation.settings, cross_validation.folder
    frames = [_read_finished(fold) for fold in cross_validation.folds]
    pooled = pd.concat(frames, ignore_index=True)
    write_predictions(pooled, folder / "oof_predictions.parquet")
    result = evaluate_for(settings, pooled)
    held_out = sum(len(fold.splits.ids[CALIBRATION_SPLIT]) for fold in cross_validation.folds)
    result |= {
        "by": None if cross_validation.regions is None else "region",
        "unreadable": held_out - len(pooled),
        "folds": [_figures_of_fold(cross_validation, *of_fold) for of_fold in enumerate(frames)],
    }
    write_json(folder / "results.json", {"cross_validation": result})
    Run(folder).write_manifest(data_fingerprint=cross_validation.table.fingerprint())
    return pooled, result


def _figures_of_fold(cross_validation: CrossValidation, number: int, frame: pd.DataFrame) -> dict[str, Any]:
    labels, decisions = frame["label"], decide(frame["probability"].to_numpy())
    figures = {
        "fold": number,
        "n": len(frame),
        "groups": int(frame["group"].nunique()),
        "roadwork": int(labels.sum()),
        "errors": int((labels != decisions).sum()),
        "mcc": float(matthews_corrcoef(labels, decisions)),
    }
    if cross_validation.regions is None:
        return figures
    regions = cross_validation.regions[np.isin(cross_validation.table.ids, frame["id"])]
    return figures | {"regions": sorted(set(regions) - {""})}


def _read_finished(fold: Fold) -> pd.DataFrame:
    try:
        frame = read_predictions(fold.predictions_file)
    except DataError as error:
        raise DataError(f"{error} Or remove the file to train the fold again with --resume.") from error
    foreign = set(frame["id"]) - set(fold.splits.ids[CALIBRATION_SPLIT])
    if foreign:
        raise DataError(
            f"{fold.predictions_file} has {len(foreign)} rows that its fold does not hold out, first "
            f"{min(foreign)!r}. Remove the file to train the fold again with --resume."
        )
    return frame
