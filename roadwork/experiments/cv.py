"""Cross-validation over everything but val_test: each row predicted once, by a network that never saw its group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import matthews_corrcoef

from roadwork.data.datamodule import NATIXDataModule
from roadwork.errors import DataError
from roadwork.evaluation.evaluate import load_best_model, predict_splits
from roadwork.evaluation.predictions import read_predictions, write_predictions
from roadwork.evaluation.results import evaluate_predictions
from roadwork.experiments.cv_plan import CrossValidation, Fold
from roadwork.experiments.fold_splits import HELD_OUT
from roadwork.preflight.dry_run import prepare_trainer
from roadwork.runs import write_json, write_manifest


def train_fold(datamodule: NATIXDataModule, fold: Fold) -> pd.DataFrame:
    """Trains a fold's run and predicts its held-out rows with the checkpoint that did best on its `val_select`.

    Args:
        datamodule: of `fold.cfg`.
        fold: where the run and the predictions are written to.

    Returns:
        The predictions table of the held-out rows; their split is the fold's name.
    """
    run_folder = prepare_trainer(datamodule).fit(datamodule)
    frame = predict_splits(datamodule, load_best_model(run_folder, datamodule.settings), [HELD_OUT])
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
    result = evaluate_predictions(
        pooled,
        target_mcc=settings.evaluation.target_mcc,
        draws=settings.evaluation.bootstrap_draws,
        seed=settings.evaluation.seed,
        brackets=[(low, high) for low, high, _ in settings.data.gps_sampling.weight_brackets],
    )
    held_out = sum(len(fold.splits.ids[HELD_OUT]) for fold in cross_validation.folds)
    result |= {
        "by": None if cross_validation.regions is None else "region",
        "unreadable": held_out - len(pooled),
        "folds": [_figures_of_fold(cross_validation, *of_fold) for of_fold in enumerate(frames)],
    }
    write_json(folder / "results.json", {"cross_validation": result})
    write_manifest(folder, data_fingerprint=cross_validation.table.fingerprint())
    return pooled, result


def _figures_of_fold(cross_validation: CrossValidation, number: int, frame: pd.DataFrame) -> dict[str, Any]:
    labels, decisions = frame["label"], (frame["probability"] >= 0.5).astype(int)
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
    foreign = set(frame["id"]) - set(fold.splits.ids[HELD_OUT])
    if foreign:
        raise DataError(
            f"{fold.predictions_file} has {len(foreign)} rows that its fold does not hold out, first "
            f"{min(foreign)!r}. Remove the file to train the fold again with --resume."
        )
    return frame
