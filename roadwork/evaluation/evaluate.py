"""Evaluates the best checkpoint of a run on the splits that it was not trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress
from torch import nn
from typing_extensions import override

from roadwork.core.devices import choose_device
from roadwork.core.errors import DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.core.progress import new_progress
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.table import SampleTable
from roadwork.data.utils.privacy import number_cells, position_columns, round_distances, round_positions
from roadwork.evaluation.ensemble import AveragedNetworks
from roadwork.metrics.predictions import build_predictions, write_predictions
from roadwork.metrics.results import evaluate_for
from roadwork.runs.ensemble_record import is_ensemble, read_members
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import HELD_OUT_SPLITS, TEST_SPLIT
from roadwork.training.checkpoints import load_weights
from roadwork.training.initialization import build_untrained

logger = logging.getLogger(__name__)


def evaluate_run(folder: Path) -> dict[str, Any]:
    """Metrics of the best checkpoint on `val_test`, by split.

    Writes `predictions.parquet` and `results.json`, and counts the opening of `val_test` in the manifest.

    Args:
        folder: a run folder.

    Returns:
        The content of `results.json`.

    Raises:
        DataError: the folder is an ensemble's, or as `open_run`.
    """
    if is_ensemble(folder):
        raise DataError(
            f"{folder} is an ensemble; its metrics come from its runs. Evaluate those, then average them again with "
            "`roadwork ensemble RUN RUN`. With --profile, the ensemble itself is evaluated."
        )
    run = Run(folder)
    datamodule, model = open_run(folder)
    opened = run.count_opening()
    frame = predict_splits(datamodule, model, HELD_OUT_SPLITS)
    write_predictions(frame, run.predictions_file)
    result = evaluate_for(datamodule.settings, frame[frame["split"] == TEST_SPLIT]) | {
        "checkpoint_sha256": sha256_of(run.best_checkpoint),
        "openings": opened,
        "unreadable": len(datamodule.ledger.reasons),
        "leaks": list(datamodule.split_report.leak_warnings),
    }
    results = {TEST_SPLIT: result}
    write_json(run.results_file, results)
    run.write_manifest()
    return results


def open_run(folder: Path) -> tuple[NATIXDataModule, nn.Module]:
    """The data module and the best network of a run.

    Raises:
        DataError: as `open_run_data`, or the run lacks its checkpoint.
    """
    datamodule = open_run_data(folder)
    return datamodule, load_best_model(folder, datamodule.settings)


def open_run_data(folder: Path) -> NATIXDataModule:
    """The data module of a run, with the data and splits that it was trained on.

    Raises:
        DataError: they have changed since, or the run lacks its configuration.
    """
    run = Run(folder)
    datamodule = build_run_datamodule(run.read_config(), folder)
    manifest = run.read_manifest()
    check_same_data(datamodule.table, manifest)
    if manifest.get("sha256", {}).get("splits.json") not in (None, sha256_of(run.splits_file)):
        raise DataError(
            f"{run.splits_file} was edited after the run was trained, so training rows could be evaluated as unseen. "
            "Restore it, or train again."
        )
    return datamodule


def build_run_datamodule(cfg: DictConfig, folder: Path) -> NATIXDataModule:
    """The data module of a run: its configuration and its splits, which are checked against today's data."""
    own_splits = {"data": {"splits_file": str(Run(folder).splits_file)}}
    datamodule = NATIXDataModule(cast("DictConfig", OmegaConf.merge(cfg, own_splits)))
    datamodule.setup("predict")
    return datamodule


def check_same_data(table: SampleTable, manifest: dict[str, Any]) -> None:
    """Checks that the data of a run, read today, is what it was trained on.

    Raises:
        DataError: it has changed.
    """
    # The manifest has the fingerprint, because a user's own splits file has none.
    trained_on, now = manifest.get("data_fingerprint"), table.fingerprint()
    if trained_on not in (None, now):
        raise DataError(
            f"{table.notes[0]} It differs from the data that the run was trained on: rows, labels, "
            f"positions or sequences have changed (fingerprint {now[:19]}…, the run's {str(trained_on)[:19]}…). "
            "Restore it, or train again."
        )


def load_best_model(folder: Path, settings: Settings) -> nn.Module:
    """The network of a run with its best weights on `val_select`, in evaluation mode; all networks of an ensemble.

    Raises:
        DataError: the run has no best checkpoint, or one that is damaged or of another network.
    """
    if is_ensemble(folder):
        runs = [member.run for member in read_members(folder)]
        return AveragedNetworks([load_best_model(run.folder, run.read_settings()) for run in runs])
    path = Run(folder).best_checkpoint
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: the run ended before its first validation. Train again, or name another run."
        )
    model = build_untrained(settings)
    load_weights(model, path)
    model.eval()
    return model


def check_weights_are_evaluated(run: Run) -> None:
    """Checks that the metrics and the calibration of a run are those of its best checkpoint.

    Raises:
        DataError: the run was trained further after its evaluation.
    """
    evaluated, path = run.read_evaluated_sha256(), run.best_checkpoint
    if evaluated is not None and path.is_file() and sha256_of(path) != evaluated:
        raise DataError(
            f"{path} is not the checkpoint that `roadwork evaluate` read: the run was trained further. "
            "Evaluate and calibrate it again first."
        )


def predict_splits(datamodule: NATIXDataModule, model: nn.Module, splits: Sequence[str]) -> pd.DataFrame:
    """The predictions table of the readable rows of these splits, computed by Lightning's `Trainer.predict`.

    Args:
        datamodule: set up; its `predict_splits` become these.
        model: maps `pixel_values` (B, 3, S, S) to `.logits` (B, 2).
        splits: names.
    """
    datamodule.predict_splits = splits
    trainer = L.Trainer(
        accelerator=choose_device().type,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with new_progress() as progress:
        try:
            by_split = trainer.predict(_Predictor(model, progress), datamodule)
        except SystemExit as error:  # Lightning's silent answer to Ctrl-C
            raise KeyboardInterrupt from error
    # For a single loader Lightning returns its batches without the outer list.
    batches = cast("list[Any]", by_split if len(splits) == 1 else list(chain.from_iterable(by_split or ())))
    rows, logits = (np.concatenate([batch[key] for batch in batches]) for key in ("index", "logits"))
    return tabulate(datamodule, rows, logits)


class _Predictor(L.LightningModule):
    """Maps a batch to its rows `index` (B,) and `logits` (B, 2) float64.

    Unlike `RoadworkClassifier`, it leaves the network's memory format and trainable parameters as they are.
    """

    def __init__(self, model: nn.Module, progress: Progress) -> None:
        super().__init__()
        self.model = model
        self.progress = progress

    @override
    def on_predict_start(self) -> None:
        self.task = self.progress.add_task("Predicting", total=sum(self.trainer.num_predict_batches))

    @override
    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, np.ndarray]:
        self.progress.advance(self.task)
        logits = self.model(pixel_values=batch["image"]).logits
        return {"index": batch["index"].cpu().numpy(), "logits": logits.cpu().double().numpy()}


def tabulate(datamodule: NATIXDataModule, chosen: np.ndarray, logits: np.ndarray) -> pd.DataFrame:
    """The predictions table of rows (N,) of the data, each once, and their logits (N, 2).

    Positions are rounded as `privacy.coarsen_gps` says, before any metric is computed from them.
    """
    decimals = datamodule.settings.privacy.coarsen_gps
    # From the whole table, so that the folds of a cross-validation have the same columns and groups.
    table, groups = coarsen_rows(datamodule.table, datamodule.groups.names, decimals)
    return build_predictions(
        table.take(chosen),
        datamodule.split_names[chosen],
        groups[chosen],
        logits,
        round_distances(datamodule.distances_to_deployment_km()[chosen], decimals),
    )


def coarsen_rows(table: SampleTable, groups: np.ndarray, decimals: int | None) -> tuple[SampleTable, np.ndarray]:
    """The table and the groups (N,) of N rows as predictions show them: no more than `decimals` of a position."""
    hidden = position_columns(table.slices, table.gps, decimals)
    if hidden:
        logger.info("Predictions leave out %s: privacy.coarsen_gps is %s.", ", ".join(map(str, hidden)), decimals)
    coarse = replace(table, gps=round_positions(table.gps, decimals), slices=table.slices.drop(columns=hidden))
    return coarse, groups if decimals is None else number_cells(groups)
