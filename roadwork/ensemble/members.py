"""The runs that are to be averaged: each read, and held against the first. What differs is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from roadwork.config import load_yaml, to_settings
from roadwork.ensemble.record import CHECKPOINT, is_ensemble
from roadwork.errors import ConfigError, DataError
from roadwork.evaluation.evaluate import TEST_SPLIT, VALIDATION_SPLITS
from roadwork.evaluation.predictions import read_predictions
from roadwork.models.processor import ImageStatistics, image_statistics
from roadwork.runs import read_manifest, read_results, sha256_of
from roadwork.settings import SPLIT_NAMES, Settings

# What is predicted, and so averaged.
SPLITS = (*VALIDATION_SPLITS, TEST_SPLIT)


@dataclass(frozen=True)
class MemberRun:
    """An evaluated run.

    Attributes:
        folder: where it is.
        cfg: its configuration, as it stands in config.yaml.
        settings: the same, typed.
        splits: ids by split.
        fingerprint: of its data; None where its manifest has none.
        statistics: that its pictures are normalised with.
        checkpoint_sha256: of its best checkpoint, which is the one that was evaluated.
        predictions: its table of predictions.
        result: the part of results.json on `val_test`.
        openings: how often `val_test` was opened for it.
    """

    folder: Path
    cfg: DictConfig
    settings: Settings
    splits: dict[str, frozenset[str]]
    fingerprint: str | None
    statistics: ImageStatistics
    checkpoint_sha256: str
    predictions: pd.DataFrame
    result: dict[str, Any]
    openings: int


def read_member_runs(folders: Sequence[Path]) -> list[MemberRun]:
    """The runs of these folders, once each is seen to be evaluated and all to fit each other.

    Raises:
        ConfigError: fewer than two, or one of them twice.
        DataError: one is an ensemble, was not evaluated or was trained on since, or differs from the first.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) < 2:
        raise ConfigError(f"{len(resolved)} run was named; an ensemble averages two or more: roadwork ensemble RUN RUN")
    twice = sorted({str(folder) for folder in resolved if resolved.count(folder) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} is named twice; it would count double. Name each run once.")
    runs = [_read_run(folder) for folder in resolved]
    for run in runs[1:]:
        _check_fits(run, runs[0])
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if run.checkpoint_sha256 == other.checkpoint_sha256:
                raise DataError(f"{run.folder} and {other.folder} hold the same checkpoint. Name one of them.")
    return runs


def _read_run(folder: Path) -> MemberRun:
    if is_ensemble(folder):
        raise DataError(f"{folder} is an ensemble itself. Name the runs that it is made of: ensemble.json lists them.")
    cfg = load_yaml(folder / "config.yaml")
    settings = to_settings(cfg)
    checkpoint = _evaluated_checkpoint(folder)
    predictions = read_predictions(folder / "predictions.parquet")
    missing = [name for name in SPLITS if not (predictions["split"] == name).any()]
    if missing:
        raise DataError(f"{folder} predicts no row of {', '.join(missing)}. {_evaluate(folder)}")
    manifest = read_manifest(folder)
    return MemberRun(
        folder=folder,
        cfg=cfg,
        settings=settings,
        splits=_read_split_ids(folder),
        fingerprint=manifest.get("data_fingerprint"),
        statistics=image_statistics(settings.model),
        checkpoint_sha256=checkpoint,
        predictions=predictions,
        result=read_results(folder)[TEST_SPLIT],
        openings=int(manifest.get("val_test_openings", 0)),
    )


def _evaluated_checkpoint(folder: Path) -> str:
    """SHA-256 of the best checkpoint, which `roadwork evaluate` must have judged as it is now."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise DataError(f"{path} is not there: the run ended before its first validation. Train again.")
    judged = read_results(folder).get(TEST_SPLIT, {}).get("checkpoint_sha256")
    if judged is None or not (folder / "predictions.parquet").is_file():
        raise DataError(f"{folder} was not evaluated, so there is nothing to average. {_evaluate(folder)}")
    found = sha256_of(path)
    if found != judged:
        raise DataError(f"{folder} was trained on since it was evaluated. {_evaluate(folder)}")
    return found


def _read_split_ids(folder: Path) -> dict[str, frozenset[str]]:
    path = folder / "splits.json"
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {name: frozenset(splits[name]) for name in SPLIT_NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be used ({type(error).__name__}: {error}). Restore it.") from None


# Name of what must be the same, how it is read, and what to do where it is not.
_MUST_AGREE: tuple[tuple[str, Callable[[MemberRun], Any], str], ...] = (
    ("the data's fingerprint", lambda run: run.fingerprint, "train both on the same data"),
    ("data.img_size", lambda run: run.settings.data.img_size, "train both at one size"),
    ("the preprocessing's mean and standard deviation", lambda run: run.statistics, "use backbones of one kind"),
    ("data.class_names", lambda run: dict(run.settings.data.class_names), "train both with the same classes"),
)


def _check_fits(run: MemberRun, first: MemberRun) -> None:
    for what, read, remedy in _MUST_AGREE:
        if read(run) != read(first):
            raise DataError(
                f"{run.folder} cannot be averaged with {first.folder}: {what} is {read(run)} and {read(first)}; "
                f"{remedy}."
            )
    for name in SPLIT_NAMES:
        if run.splits[name] != first.splits[name]:
            apart = sorted(run.splits[name] ^ first.splits[name])
            raise DataError(
                f"{run.folder} cannot be averaged with {first.folder}: their {name} differs in {len(apart)} rows, "
                f"first {apart[0]}. One may have trained on what the other is judged on: train both by one splits file."
            )
    for name in SPLITS:
        found, expected = (set(r.predictions.loc[r.predictions["split"] == name, "id"]) for r in (run, first))
        if found != expected:
            raise DataError(
                f"{run.folder} and {first.folder} do not predict the same rows of {name}: {len(found ^ expected)} are "
                f"in one alone, first {min(found ^ expected)}. {_evaluate(run.folder)} {_evaluate(first.folder)}"
            )


def _evaluate(folder: Path) -> str:
    return f"Run `roadwork evaluate {folder}`."
