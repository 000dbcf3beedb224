"""The runs that a run starts from: what its manifest says of them, and that none has seen what it is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roadwork.config import load_yaml
from roadwork.data.splits import Splits
from roadwork.errors import DataError, SplitError
from roadwork.runs import find_run_folder, read_manifest, sha256_of
from roadwork.settings import TrainingSettings
from roadwork.training.checkpoints.files import BEST

JUDGED_BY = ("val_select", "val_calib", "val_test")


def check_unseen(training: TrainingSettings, splits: Splits) -> None:
    """Checks that no run before this one was trained on rows that this one is judged by.

    Rows are known by their ids, also where the runs read different datasets.

    Raises:
        SplitError: one was.
        DataError: one of them is not there, or lacks its splits.
    """
    judge = {row_id: name for name in JUDGED_BY for row_id in splits.ids[name]}
    for folder in ancestors(training.start_from):
        seen = [row_id for row_id in _trained_on(folder) if row_id in judge]
        if seen:
            raise SplitError(
                f"training.start_from: {len(seen):,} of the {len(judge):,} rows that judge this run were seen in "
                f"the training of {folder}, first {seen[0]} ({judge[seen[0]]}): every figure would be too good. "
                f"Set data.splits_file={folder / 'splits.json'}, or start from a run on other rows."
            )


def describe_start(training: TrainingSettings) -> dict[str, Any]:
    """For the manifest: the run in `start_from`, its checkpoint's SHA-256 and its best val_select MCC; or nothing."""
    if training.start_from is None:
        return {}
    folder = find_run_folder(Path(training.start_from))
    return {
        "start_from": {
            "run": str(folder),
            "checkpoint_sha256": sha256_of(folder / "checkpoints" / BEST),
            "best_val_select_mcc": read_manifest(folder).get("best_val_select_mcc"),
        }
    }


def ancestors(start_from: str | None) -> Iterator[Path]:
    """The folder of the run in `training.start_from`, of the one that it started from, and so on."""
    while start_from is not None:
        folder = find_run_folder(Path(start_from))
        yield folder
        start_from = OmegaConf.select(load_yaml(folder / "config.yaml"), "training.start_from")


def _trained_on(folder: Path) -> list[str]:
    path = folder / "splits.json"
    try:
        ids: list[str] = json.loads(path.read_text(encoding="utf-8"))["splits"]["train"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"training.start_from: {path} cannot be read ({type(error).__name__}), so it is not known which rows that "
            "run was trained on. Restore it, or start from another run."
        ) from error
    return ids
