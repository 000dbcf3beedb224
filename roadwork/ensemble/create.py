"""A run-like folder of several runs: what comes after `evaluate` reads it as it reads a run's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from roadwork.config import to_settings
from roadwork.ensemble.average import average_predictions
from roadwork.ensemble.members import MemberRun, read_member_runs
from roadwork.ensemble.record import Member, write_record
from roadwork.evaluation.evaluate import TEST_SPLIT
from roadwork.evaluation.metrics import count_confusion, mcc
from roadwork.evaluation.predictions import write_predictions
from roadwork.evaluation.results import evaluate_predictions
from roadwork.runs import create_run_folder, write_json, write_manifest
from roadwork.settings import Settings

SELECTION_SPLIT = "val_select"


@dataclass(frozen=True)
class EnsembleSummary:
    """An ensemble that was made.

    Attributes:
        folder: of it.
        members: the runs, and the MCC of each on `val_select` at 0.5.
        val_select_mcc: the ensemble's own.
        result: the part of its results.json on `val_test`.
    """

    folder: Path
    members: dict[Path, float]
    val_select_mcc: float
    result: dict[str, Any]


def create_ensemble(runs: Sequence[Path], experiment: str | None = None) -> EnsembleSummary:
    """Averages the logits of evaluated runs, and writes a folder `<output_dir>/<experiment>/<UTC time>/`.

    No label is opened that the members' own evaluations have not opened; it is another look at them all the same, and
    so the manifest counts theirs and this one.

    Args:
        runs: folders of two or more runs; output_dir is the first one's.
        experiment: names the folder; None: the first one's name with -ensemble.

    Raises:
        ConfigError: fewer than two runs, one twice, or a name that cannot be one.
        DataError: a run was not evaluated, or does not fit the others.
    """
    members = read_member_runs(runs)
    first = members[0]
    experiment = experiment or f"{first.settings.experiment}-ensemble"
    cfg = cast("DictConfig", OmegaConf.merge(first.cfg, {"experiment": experiment}))
    settings = to_settings(cfg)
    frame = average_predictions([member.predictions for member in members])
    selecting = {member.folder: _select_mcc(member.predictions) for member in members}
    folder = create_run_folder(Path(settings.output_dir), experiment)
    OmegaConf.save(cfg, folder / "config.yaml")
    shutil.copyfile(first.folder / "splits.json", folder / "splits.json")
    recorded = [Member(member.folder, member.checkpoint_sha256) for member in members]
    write_record(
        folder, recorded, {"val_select_mcc": _select_mcc(frame), "members_val_select_mcc": [*selecting.values()]}
    )
    openings = 1 + sum(member.openings for member in members)
    write_manifest(
        folder,
        seeds={
            "training": [member.settings.training.seed for member in members],
            "sampler": [member.settings.data.gps_sampling.random_seed for member in members],
        },
        data_fingerprint=first.fingerprint,
        val_test_openings=openings,
        val_test_openings_of_members=[member.openings for member in members],
    )
    write_predictions(frame, folder / "predictions.parquet")
    result = _judge(frame, settings) | _of_all(members) | {"openings": openings}
    write_json(folder / "results.json", {TEST_SPLIT: result})
    write_manifest(folder)
    return EnsembleSummary(folder, selecting, _select_mcc(frame), result)


def _judge(frame: pd.DataFrame, settings: Settings) -> dict[str, Any]:
    return evaluate_predictions(
        frame[frame["split"] == TEST_SPLIT],
        target_mcc=settings.evaluation.target_mcc,
        draws=settings.evaluation.bootstrap_draws,
        seed=settings.evaluation.seed,
        brackets=[(low, high) for low, high, _ in settings.data.gps_sampling.weight_brackets],
    )


def _of_all(members: Sequence[MemberRun]) -> dict[str, Any]:
    """What the members' own results say of data and checkpoints."""
    return {
        "checkpoint_sha256": [member.checkpoint_sha256 for member in members],
        "unreadable": max(member.result.get("unreadable", 0) for member in members),
        "leaks": list(dict.fromkeys(leak for member in members for leak in member.result.get("leaks", []))),
    }


def _select_mcc(frame: pd.DataFrame) -> float:
    rows = frame[frame["split"] == SELECTION_SPLIT]
    counts = count_confusion(rows["label"].to_numpy(), rows["probability"].to_numpy(), 0.5)
    return float(mcc(counts))
