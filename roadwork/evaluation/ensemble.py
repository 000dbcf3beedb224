"""Averages several runs into one detector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from roadwork.config import load_yaml, to_settings
from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.metrics.classification import count_confusion, mcc
from roadwork.metrics.decision import softmax_roadwork
from roadwork.metrics.predictions import CALIBRATED_COLUMN, read_predictions, write_predictions
from roadwork.metrics.results import evaluate_predictions
from roadwork.models.ensemble import EnsembleForImageClassification, mean_logits
from roadwork.models.processor import ImageStatistics, image_statistics
from roadwork.runs.ensemble_record import CHECKPOINT, Member, is_ensemble, write_record
from roadwork.runs.run import Run
from roadwork.settings import SPLIT_NAMES, Settings
from roadwork.settings.sampling import HELD_OUT_SPLITS, TEST_SPLIT
from roadwork.training.lora.apply import merge_adapter

LOGITS = ["logit_none", "logit_roadwork"]

# What is predicted, and so averaged.
SELECTION_SPLIT = "val_select"


def average_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A predictions table in the first one's order, with its further columns and the mean logits of all.

    Args:
        frames: predictions tables of the same rows, in any order.

    Raises:
        DataError: a row is missing in one, is in it twice, or has another split or label there.
    """
    first = frames[0].drop(columns=CALIBRATED_COLUMN, errors="ignore").reset_index(drop=True)
    ordered = [_in_order_of(first, frame) for frame in frames]
    logits = np.mean([frame[LOGITS].to_numpy(np.float64) for frame in ordered], axis=0)
    columns = {name: logits[:, place] for place, name in enumerate(LOGITS)}
    return first.assign(**columns, probability=softmax_roadwork(logits))


def _in_order_of(first: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    if frame["id"].duplicated().any():
        raise DataError(f"{frame.loc[frame['id'].duplicated(), 'id'].iloc[0]} is predicted twice. Evaluate it again.")
    by_id = frame.set_index("id")
    missing = sorted(set(first["id"]) ^ set(by_id.index))
    if missing:
        raise DataError(f"{len(missing)} rows are predicted by one run alone, first {missing[0]}. Evaluate each again.")
    ordered = by_id.loc[first["id"]].reset_index()
    for name in ("split", "label"):
        apart = (ordered[name] != first[name]).to_numpy()
        if apart.any():
            row = int(apart.argmax())
            raise DataError(
                f"{name} of {first['id'][row]} is {first[name][row]} in one run and {ordered[name][row]} in another: "
                "they are of different data. Evaluate each again."
            )
    return ordered


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
    cfg = load_yaml(Run(folder).config_file)
    settings = to_settings(cfg)
    checkpoint = _evaluated_checkpoint(folder)
    predictions = read_predictions(Run(folder).predictions_file)
    missing = [name for name in HELD_OUT_SPLITS if not (predictions["split"] == name).any()]
    if missing:
        raise DataError(f"{folder} predicts no row of {', '.join(missing)}. {_evaluate(folder)}")
    manifest = Run(folder).read_manifest()
    return MemberRun(
        folder=folder,
        cfg=cfg,
        settings=settings,
        splits=_read_split_ids(folder),
        fingerprint=manifest.get("data_fingerprint"),
        statistics=image_statistics(settings.model),
        checkpoint_sha256=checkpoint,
        predictions=predictions,
        result=Run(folder).read_results()[TEST_SPLIT],
        openings=int(manifest.get("val_test_openings", 0)),
    )


def _evaluated_checkpoint(folder: Path) -> str:
    """SHA-256 of the best checkpoint, which `roadwork evaluate` must have judged as it is now."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise DataError(f"{path} is not there: the run ended before its first validation. Train again.")
    judged = Run(folder).read_results().get(TEST_SPLIT, {}).get("checkpoint_sha256")
    if judged is None or not Run(folder).predictions_file.is_file():
        raise DataError(f"{folder} was not evaluated, so there is nothing to average. {_evaluate(folder)}")
    found = sha256_of(path)
    if found != judged:
        raise DataError(f"{folder} was trained on since it was evaluated. {_evaluate(folder)}")
    return found


def _read_split_ids(folder: Path) -> dict[str, frozenset[str]]:
    path = Run(folder).splits_file
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
    for name in HELD_OUT_SPLITS:
        found, expected = (set(r.predictions.loc[r.predictions["split"] == name, "id"]) for r in (run, first))
        if found != expected:
            raise DataError(
                f"{run.folder} and {first.folder} do not predict the same rows of {name}: {len(found ^ expected)} are "
                f"in one alone, first {min(found ^ expected)}. {_evaluate(run.folder)} {_evaluate(first.folder)}"
            )


def _evaluate(folder: Path) -> str:
    return f"Run `roadwork evaluate {folder}`."


class AveragedNetworks(nn.Module):
    """Networks as they were trained, adapters and all: (B, 3, S, S) to `.logits` (B, 2), the mean of theirs."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """`logits` (B, 2) of None and Roadwork, for (B, 3, S, S)."""
        return SimpleNamespace(logits=mean_logits(self.members, pixel_values))


def merge_members(network: AveragedNetworks) -> EnsembleForImageClassification:
    """The same networks, each one's adapter merged, as one that can be saved."""
    return EnsembleForImageClassification.of([merge_adapter(member) for member in network.members])


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
    folder = Run.create(Path(settings.output_dir), experiment).folder
    OmegaConf.save(cfg, Run(folder).config_file)
    shutil.copyfile(Run(first.folder).splits_file, Run(folder).splits_file)
    recorded = [Member(member.folder, member.checkpoint_sha256) for member in members]
    write_record(
        folder, recorded, {"val_select_mcc": _select_mcc(frame), "members_val_select_mcc": [*selecting.values()]}
    )
    openings = 1 + sum(member.openings for member in members)
    Run(folder).write_manifest(
        seeds={
            "training": [member.settings.training.seed for member in members],
            "sampler": [member.settings.data.gps_sampling.random_seed for member in members],
        },
        data_fingerprint=first.fingerprint,
        val_test_openings=openings,
        val_test_openings_of_members=[member.openings for member in members],
    )
    write_predictions(frame, Run(folder).predictions_file)
    result = _judge(frame, settings) | _of_all(members) | {"openings": openings}
    write_json(Run(folder).results_file, {TEST_SPLIT: result})
    Run(folder).write_manifest()
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
