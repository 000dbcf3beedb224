"""Ensembles: the mean of the logits of several runs, as a run folder of its own."""

from __future__ import annotations

import itertools
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
from roadwork.metrics.results import evaluate_for
from roadwork.models.ensemble import EnsembleForImageClassification, mean_logits
from roadwork.models.processor import ImageStatistics, image_statistics
from roadwork.runs.ensemble_record import Member, is_ensemble, write_record
from roadwork.runs.run import Run
from roadwork.settings import SPLIT_NAMES, Settings
from roadwork.settings.sampling import HELD_OUT_SPLITS, SELECTION_SPLIT, TEST_SPLIT
from roadwork.training.lora.apply import merge_adapter

LOGITS = ["logit_none", "logit_roadwork"]


@dataclass(frozen=True)
class EnsembleSummary:
    """A new ensemble.

    Attributes:
        folder: its run folder.
        members: the MCC of each run on `val_select` at 0.5, by folder.
        val_select_mcc: of the ensemble.
        result: its metrics on `val_test`, as in results.json.
    """

    folder: Path
    members: dict[Path, float]
    val_select_mcc: float
    result: dict[str, Any]


def create_ensemble(runs: Sequence[Path], experiment: str | None = None) -> EnsembleSummary:
    """The mean of the logits of evaluated runs, in a new folder `<output_dir>/<experiment>/<UTC time>/`.

    The manifest counts the members' openings of `val_test` and one more, because this is another look at its labels.

    Args:
        runs: folders of two or more runs; the output_dir is that of the first one.
        experiment: names the folder; by default the first run's name with -ensemble.

    Raises:
        ConfigError: there are fewer than two runs, one is named twice, or the name cannot be used.
        DataError: a run was not evaluated, or does not match the others.
    """
    members = read_member_runs(runs)
    first = members[0]
    experiment = experiment or f"{first.settings.experiment}-ensemble"
    cfg = cast("DictConfig", OmegaConf.merge(first.cfg, {"experiment": experiment}))
    settings = to_settings(cfg)
    frame = average_predictions([member.predictions for member in members])
    mcc_of_members = {member.run.folder: _select_mcc(member.predictions) for member in members}
    run = Run.create(Path(settings.output_dir), experiment)
    OmegaConf.save(cfg, run.config_file)
    shutil.copyfile(first.run.splits_file, run.splits_file)
    recorded = [Member(member.run, member.checkpoint_sha256) for member in members]
    write_record(
        run.folder,
        recorded,
        {"val_select_mcc": _select_mcc(frame), "members_val_select_mcc": [*mcc_of_members.values()]},
    )
    openings = 1 + sum(member.openings for member in members)
    run.write_manifest(
        seeds={
            "training": [member.settings.training.seed for member in members],
            "sampler": [member.settings.data.gps_sampling.random_seed for member in members],
        },
        data_fingerprint=first.fingerprint,
        val_test_openings=openings,
        val_test_openings_of_members=[member.openings for member in members],
    )
    write_predictions(frame, run.predictions_file)
    result = evaluate_for(settings, frame[frame["split"] == TEST_SPLIT]) | {
        "checkpoint_sha256": [member.checkpoint_sha256 for member in members],
        "unreadable": max(member.result.get("unreadable", 0) for member in members),
        "leaks": list(dict.fromkeys(leak for member in members for leak in member.result.get("leaks", []))),
        "openings": openings,
    }
    write_json(run.results_file, {TEST_SPLIT: result})
    run.write_manifest()
    return EnsembleSummary(run.folder, mcc_of_members, _select_mcc(frame), result)


def _select_mcc(frame: pd.DataFrame) -> float:
    rows = frame[frame["split"] == SELECTION_SPLIT]
    counts = count_confusion(rows["label"].to_numpy(), rows["probability"].to_numpy())
    return float(mcc(counts))


@dataclass(frozen=True)
class MemberRun:
    """An evaluated run.

    Attributes:
        run: its folder.
        cfg: its configuration, as in config.yaml.
        settings: the same, typed.
        splits: ids by split.
        fingerprint: of its data; None if its manifest has none.
        statistics: mean and standard deviation that normalise its images.
        checkpoint_sha256: of its best checkpoint, the one that was evaluated.
        predictions: its predictions table.
        result: its metrics on `val_test`, as in results.json.
        openings: how often `val_test` was opened for it.
    """

    run: Run
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
    """The evaluated runs of these folders, which match each other.

    Raises:
        ConfigError: there are fewer than two, or one is named twice.
        DataError: one is an ensemble, was not evaluated, was trained further since, or differs from the first.
    """
    resolved = [folder.resolve() for folder in folders]
    if len(resolved) < 2:
        raise ConfigError(f"{len(resolved)} run was named; an ensemble averages two or more: roadwork ensemble RUN RUN")
    twice = sorted({str(folder) for folder in resolved if resolved.count(folder) > 1})
    if twice:
        raise ConfigError(f"{', '.join(twice)} is named twice; it would count double. Name each run once.")
    members = [_read_member(Run(folder)) for folder in resolved]
    for member in members[1:]:
        _check_matches(member, members[0])
    for first, second in itertools.combinations(members, 2):
        if first.checkpoint_sha256 == second.checkpoint_sha256:
            raise DataError(f"{first.run.folder} and {second.run.folder} have the same checkpoint. Name one of them.")
    return members


def _read_member(run: Run) -> MemberRun:
    if is_ensemble(run.folder):
        raise DataError(f"{run.folder} is an ensemble. Name its runs instead: ensemble.json lists them.")
    cfg = load_yaml(run.config_file)
    settings = to_settings(cfg)
    checkpoint = _evaluated_checkpoint(run)
    predictions = read_predictions(run.predictions_file)
    missing = [name for name in HELD_OUT_SPLITS if not (predictions["split"] == name).any()]
    if missing:
        raise DataError(f"{run.folder} has no prediction for {', '.join(missing)}. {_evaluate(run)}")
    manifest = run.read_manifest()
    return MemberRun(
        run=run,
        cfg=cfg,
        settings=settings,
        splits=_read_split_ids(run),
        fingerprint=manifest.get("data_fingerprint"),
        statistics=image_statistics(settings.model),
        checkpoint_sha256=checkpoint,
        predictions=predictions,
        result=run.read_results()[TEST_SPLIT],
        openings=int(manifest.get("val_test_openings", 0)),
    )


def _evaluated_checkpoint(run: Run) -> str:
    """The SHA-256 of the best checkpoint, which must be the one that `roadwork evaluate` read."""
    path = run.best_checkpoint
    if not path.is_file():
        raise DataError(f"{path} does not exist: the run ended before its first validation. Train again.")
    evaluated = run.read_evaluated_sha256()
    if evaluated is None or not run.predictions_file.is_file():
        raise DataError(f"{run.folder} was not evaluated, so there is nothing to average. {_evaluate(run)}")
    found = sha256_of(path)
    if found != evaluated:
        raise DataError(f"{run.folder} was trained on since it was evaluated. {_evaluate(run)}")
    return found


def _read_split_ids(run: Run) -> dict[str, frozenset[str]]:
    path = run.splits_file
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))["splits"]
        return {name: frozenset(splits[name]) for name in SPLIT_NAMES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be used ({type(error).__name__}: {error}). Restore it.") from None


# What members must share: its name, how to read it, and what to do if it differs.
_SHARED: tuple[tuple[str, Callable[[MemberRun], Any], str], ...] = (
    ("the data's fingerprint", lambda member: member.fingerprint, "train both on the same data"),
    ("data.img_size", lambda member: member.settings.data.img_size, "train both at one size"),
    ("the preprocessing's mean and standard deviation", lambda member: member.statistics, "use backbones of one kind"),
    ("data.class_names", lambda member: dict(member.settings.data.class_names), "train both with the same classes"),
)


def _check_matches(member: MemberRun, first: MemberRun) -> None:
    both = f"{member.run.folder} cannot be averaged with {first.run.folder}"
    for what, read, remedy in _SHARED:
        if read(member) != read(first):
            raise DataError(f"{both}: {what} is {read(member)} and {read(first)}; {remedy}.")
    for name in SPLIT_NAMES:
        if member.splits[name] != first.splits[name]:
            different = sorted(member.splits[name] ^ first.splits[name])
            raise DataError(
                f"{both}: their {name} differs in {len(different)} rows, first {different[0]}. One may have trained on "
                "rows that evaluate the other: train both with one splits file."
            )
    for name in HELD_OUT_SPLITS:
        found, expected = (set(m.predictions.loc[m.predictions["split"] == name, "id"]) for m in (member, first))
        if found != expected:
            raise DataError(
                f"{both}: their predicted rows of {name} differ in {len(found ^ expected)}, first "
                f"{min(found ^ expected)}. {_evaluate(member.run)} {_evaluate(first.run)}"
            )


def _evaluate(run: Run) -> str:
    return f"Run `roadwork evaluate {run.folder}`."


def average_predictions(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A predictions table with the mean logits, in the order and with the other columns of the first table.

    Args:
        frames: predictions tables of the same rows, in any order.

    Raises:
        DataError: a row is missing in a table, is in it twice, or has another split or label there.
    """
    first = frames[0].drop(columns=CALIBRATED_COLUMN, errors="ignore").reset_index(drop=True)
    ordered = [_reorder(frame, first) for frame in frames]
    logits = np.mean([frame[LOGITS].to_numpy(np.float64) for frame in ordered], axis=0)
    columns = {name: logits[:, place] for place, name in enumerate(LOGITS)}
    return first.assign(**columns, probability=softmax_roadwork(logits))


def _reorder(frame: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    if frame["id"].duplicated().any():
        raise DataError(f"{frame.loc[frame['id'].duplicated(), 'id'].iloc[0]} is predicted twice. Evaluate it again.")
    by_id = frame.set_index("id")
    missing = sorted(set(first["id"]) ^ set(by_id.index))
    if missing:
        raise DataError(f"{len(missing)} rows are predicted by one run only, first {missing[0]}. Evaluate each again.")
    ordered = by_id.loc[first["id"]].reset_index()
    for name in ("split", "label"):
        differs = (ordered[name] != first[name]).to_numpy()
        if differs.any():
            row = int(differs.argmax())
            raise DataError(
                f"{name} of {first['id'][row]} is {first[name][row]} in one run and {ordered[name][row]} in another: "
                "their data differs. Evaluate each again."
            )
    return ordered


class AveragedNetworks(nn.Module):
    """Maps images (B, 3, S, S) to `.logits` (B, 2), the mean over networks that may have adapters."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.eval()

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        """Output with `.logits` (B, 2) of None and Roadwork for images (B, 3, S, S)."""
        return SimpleNamespace(logits=mean_logits(self.members, pixel_values))


def merge_members(network: AveragedNetworks) -> EnsembleForImageClassification:
    """The same networks with their adapters merged, as one network of transformers."""
    return EnsembleForImageClassification.of([merge_adapter(member) for member in network.members])
