"""Cross-validation over everything but val_test."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import matthews_corrcoef

from roadwork.calibration.across import AcrossRows
from roadwork.calibration.data import Rows, read_rows
from roadwork.config import to_settings
from roadwork.core.errors import ConfigError
from roadwork.core.files import write_json
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.open import open_dataset
from roadwork.evaluation.evaluate import check_same_data, load_best_model, predict_splits
from roadwork.experiments.folds import region_of_group, rows_to_divide
from roadwork.experiments.plan import ACROSS, CROSS_VALIDATION, Fit, Plan, begin_plan
from roadwork.metrics.decision import decide
from roadwork.metrics.predictions import predicted_margins, read_predictions, write_predictions
from roadwork.metrics.results import evaluate_for
from roadwork.runs.ensemble_record import is_ensemble
from roadwork.runs.run import Run
from roadwork.settings.sampling import CALIBRATION_SPLIT
from roadwork.training.trainers.factory import prepare_trainer


def plan_cross_validation(cfg: DictConfig, n_folds: int, by: str | None = None, resume: str | None = None) -> Plan:
    """Divides the data into folds and plans one fit per fold; trains nothing.

    Args:
        cfg: the configuration of each fit.
        n_folds: 2 or more.
        by: `region` holds out whole regions.
        resume: the folder of a cross-validation to continue, or `latest`; its finished folds are kept.

    Raises:
        RoadworkError: the data cannot be divided, or the folder holds another cross-validation.
    """
    plan = begin_plan(cfg, CROSS_VALIDATION, {"folds": n_folds, "by": by}, resume)
    for fold in range(len(plan.splits)):
        plan.add_fit(fold)
    return plan


def plan_across(run: Run, column: str) -> Plan:
    """Plans a fit per fold of whole regions, with a run's configuration, data and `val_test`; trains nothing.

    The plan is in `<run>/across/<column>/`. If it exists, its finished fits are kept.

    Args:
        run: an evaluated run.
        column: a column of its dataset, or `h3`.

    Raises:
        ConfigError: the column cannot be used, or the run is an ensemble.
        DataError: the run was not evaluated, or its data have changed since.
    """
    if is_ensemble(run.folder):
        raise ConfigError(f"--across trains a run's configuration again, but {run.folder} is an ensemble. Name a run.")
    read_rows(read_predictions(run.predictions_file))  # before the folds, which take long
    cfg = run.read_config()
    OmegaConf.update(cfg, "data.splits_file", str(run.splits_file))
    check_same_data(open_dataset(to_settings(cfg)).table, run.read_manifest())  # before anything is written
    folder = run.across_folder / re.sub(r"[^\w.-]", "_", column)
    plan = begin_plan(cfg, ACROSS, {"by": column}, folder=folder)
    for fold in range(len(plan.splits)):
        plan.add_fit(fold)
    return plan


def pool_across(plan: Plan) -> AcrossRows:
    """The out-of-region predictions of a finished plan of `plan_across`, which are also written there."""
    pooled, _ = pool_folds(plan)
    table, groups = plan.dataset.table, plan.dataset.groups
    rows = rows_to_divide(table, groups, plan.dataset.splits)
    assert plan.regions is not None
    regions = pd.Series(region_of_group(groups.names[rows], plan.regions[rows]), index=table.ids[rows])
    held_out = regions.loc[pooled["id"]].to_numpy(dtype=str)
    return AcrossRows(plan.options["by"], Rows(pooled["label"].to_numpy(), predicted_margins(pooled), held_out))


def train_fold(datamodule: NATIXDataModule, fit: Fit) -> pd.DataFrame:
    """Trains a fit and predicts its held-out rows with the best checkpoint by `val_select`.

    Args:
        datamodule: of `fit.cfg`.
        fit: where the run and the predictions are written.

    Returns:
        The predictions table of the held-out rows; the `split` column is the fold's name.
    """
    run_folder = prepare_trainer(datamodule).fit(datamodule)
    frame = predict_splits(datamodule, load_best_model(run_folder, datamodule.settings), [CALIBRATION_SPLIT])
    frame["split"] = fit.folder.name
    write_predictions(frame, fit.predictions_file)
    return frame


def pool_folds(plan: Plan) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Pools the predictions of all folds; writes `oof_predictions.parquet`, `results.json` and the manifest.

    The interval resamples groups of rows. It does not cover the variation between training seeds.

    Returns:
        The pooled table, and the pooled metrics; `folds` holds the metrics of each fold.
    """
    frames = [fit.read_predictions() for fit in plan.fits]
    pooled = pd.concat(frames, ignore_index=True)
    write_predictions(pooled, plan.folder / "oof_predictions.parquet")
    held_out = sum(len(splits.ids[CALIBRATION_SPLIT]) for splits in plan.splits)
    result = evaluate_for(plan.settings, pooled) | {
        "by": plan.options["by"],
        "unreadable": held_out - len(pooled),
        "folds": [_measure_fold(plan, fold, frame) for fold, frame in enumerate(frames)],
    }
    write_json(plan.folder / "results.json", {"cross_validation": result})
    Run(plan.folder).write_manifest(data_fingerprint=plan.dataset.table.fingerprint())
    return pooled, result


def _measure_fold(plan: Plan, fold: int, frame: pd.DataFrame) -> dict[str, Any]:
    labels, decisions = frame["label"], decide(frame["probability"].to_numpy())
    metrics = {
        "fold": fold,
        "n": len(frame),
        "groups": int(frame["group"].nunique()),
        "roadwork": int(labels.sum()),
        "errors": int((labels != decisions).sum()),
        "mcc": float(matthews_corrcoef(labels, decisions)),
    }
    if plan.regions is None:
        return metrics
    regions = plan.regions[np.isin(plan.dataset.table.ids, frame["id"])]
    return metrics | {"regions": sorted(set(regions) - {""})}
