"""Lists the runs in an output folder, and finds a run by its name."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roadwork.config import load_config, load_yaml
from roadwork.core.errors import ConfigError, DataError, RoadworkError
from roadwork.runs.lock import is_locked
from roadwork.runs.run import BEST, LAST, PREVIOUS, Run

RUNNING, FINISHED, STOPPED, UNSAVED, DAMAGED = "running", "finished", "stopped", "unsaved", "damaged"

# The folder names of `Run.create`; the number is for runs that started in the same second.
_TIME = re.compile(r"(\d{8}T\d{6}Z)(?:-(\d+))?")

# Other experiments also name folders by time, but have none of these files.
_RUN_FILES = ("config.yaml", "splits.json", "metrics.jsonl", "checkpoints")
_SHOWN = 5


@dataclass(frozen=True)
class RunRow:
    """A run as its folder describes it; unknown values are None.

    Attributes:
        name: `<experiment>/<UTC time>`, the path below the output folder.
        folder: the run's folder.
        state: `running` (a process on this machine trains it), `finished`, `stopped` (it can be resumed), `unsaved`
            (it ended before its first checkpoint), or `damaged` (see `note`).
        epochs: number of completed epochs.
        epochs_asked: `training.epochs`.
        best_val_select_mcc: the best MCC on val_select over all epochs.
        val_test_mcc: MCC on val_test at a threshold of 0.5, from `roadwork evaluate`.
        val_test_mcc_low: lower end of its 95 % interval.
        val_test_mcc_high: upper end of its 95 % interval.
        val_test_openings: how often val_test's labels were opened for this run.
        calibrated: whether it has a calibration.json.
        model: `model.name`; only the last part of a folder.
        adapter: `training.adapter`, or `head only`.
        git_revision: revision of roadwork's checkout when the manifest was last written.
        note: a remark on the values.
    """

    name: str
    folder: Path
    state: str
    epochs: int | None = None
    epochs_asked: int | None = None
    best_val_select_mcc: float | None = None
    val_test_mcc: float | None = None
    val_test_mcc_low: float | None = None
    val_test_mcc_high: float | None = None
    val_test_openings: int | None = None
    calibrated: bool | None = None
    model: str | None = None
    adapter: str | None = None
    git_revision: str | None = None
    note: str | None = None


def list_runs(output_dir: Path, experiment: str | None = None) -> list[RunRow]:
    """All runs in `output_dir`, or those of one experiment; the newest first.

    Raises:
        DataError: there is no such folder.
    """
    if not output_dir.is_dir():
        raise DataError(f"There is no folder {output_dir}. Name the folder of your runs with --output-dir DIR.")
    folders = find_runs(output_dir)
    return [
        read_row(folder, output_dir)
        for folder in folders
        if experiment in (None, folder.parent.relative_to(output_dir).as_posix())
    ]


def find_runs(output_dir: Path) -> list[Path]:
    """The folders of all runs in `output_dir`, the newest first, without the folds of a cross-validation."""
    found = []
    for parent, folders, _ in os.walk(output_dir):
        timed = [name for name in folders if _TIME.fullmatch(name)]
        found += [folder for name in timed if _is_run(folder := Path(parent) / name)]
        folders[:] = [name for name in folders if name not in timed]
    return sorted(found, key=lambda folder: (*_time_of(folder), str(folder)), reverse=True)


def _is_run(folder: Path) -> bool:
    inside = {path.name for path in folder.iterdir()}
    return not inside or not inside.isdisjoint(_RUN_FILES)


def _time_of(folder: Path) -> tuple[str, int]:
    match = _TIME.fullmatch(folder.name)
    return (match[1], int(match[2] or 1)) if match else ("", 0)


def read_row(folder: Path, output_dir: Path) -> RunRow:
    """The row of a run's folder; a damaged folder gives a row whose note describes the damage."""
    name = folder.relative_to(output_dir).as_posix()
    try:
        return _read_row(name, folder)
    except (RoadworkError, OSError) as error:
        return RunRow(name, folder, DAMAGED, note=" ".join(str(error).split()))


def _read_row(name: str, folder: Path) -> RunRow:
    config, manifest, test = _config_of(folder), Run(folder).read_manifest(), _test_result(folder)
    epochs, damaged = Run(folder).read_epochs()
    scores = [score for epoch in epochs if (score := _number(epoch.get("val_select/mcc"))) is not None]
    frozen = OmegaConf.select(config, "training.freeze_backbone")
    return RunRow(
        name,
        folder,
        _state(folder, manifest),
        epochs=len(epochs),
        epochs_asked=config.training.epochs,
        best_val_select_mcc=max(scores, default=None),
        val_test_mcc=_number(test.get("mcc")),
        val_test_mcc_low=_number(test.get("mcc_low")),
        val_test_mcc_high=_number(test.get("mcc_high")),
        val_test_openings=manifest.get("val_test_openings", 0),
        calibrated=Run(folder).calibration_file.is_file(),
        model=Path(config.model.name).name if Path(config.model.name).is_dir() else config.model.name,
        adapter="head only" if frozen else config.training.adapter,
        git_revision=manifest.get("git_revision"),
        note=_note(manifest, test, damaged),
    )


def _state(folder: Path, manifest: dict[str, Any]) -> str:
    if is_locked(folder):
        return RUNNING
    # Set when a fit finishes, and removed when the run is resumed.
    if manifest.get("epochs_trained") is not None:
        return FINISHED
    checkpoints = Run(folder).checkpoint_folder
    return STOPPED if any((checkpoints / name).is_file() for name in (LAST, PREVIOUS)) else UNSAVED


def _note(manifest: dict[str, Any], test: dict[str, Any], damaged: Sequence[int]) -> str | None:
    if damaged:
        return f"metrics.jsonl: {len(damaged)} damaged lines were skipped, first line {damaged[0]}."
    best = manifest.get("sha256", {}).get(f"checkpoints/{BEST}")
    if test and test.get("checkpoint_sha256") not in (None, best):
        return "The val_test metrics belong to an older best checkpoint. Run `roadwork evaluate` again."
    return None


def _config_of(folder: Path) -> DictConfig:
    path = Run(folder).config_file
    if not path.is_file():
        raise DataError("It has no config.yaml: it ended before it started training, or the file was lost.")
    config = load_yaml(path)
    kinds = {"model.name": str, "training.epochs": int, "training.adapter": str}
    lacking = [key for key, kind in kinds.items() if not isinstance(OmegaConf.select(config, key), kind)]
    if lacking:
        raise DataError(f"Its config.yaml is not the configuration of a run: {', '.join(lacking)} cannot be read.")
    return config


def _test_result(folder: Path) -> dict[str, Any]:
    results = Run(folder).read_results()
    result = results.get("val_test", {}) if isinstance(results, dict) else None
    if not isinstance(result, dict):
        raise DataError(f"{Run(folder).results_file} contains no metrics. Write it again with `roadwork evaluate RUN`.")
    return result


def _number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def default_output_dir() -> Path:
    """The `output_dir` of configs/config.yaml: the user's file if it exists, else the shipped one."""
    return Path(load_config("configs/config.yaml").output_dir)


def resolve_run(name: str, output_dir: Path) -> Path:
    """The folder of the run with a name.

    Args:
        name: a run's folder; or, in `output_dir`, `<experiment>/<time>`, `<experiment>` or `<experiment>/latest` for
            the newest run, or an unambiguous prefix of a run's name.
        output_dir: the folder of all runs.

    Raises:
        DataError: no run, or more than one, matches; the message has the closest names.
    """
    if (Run(Path(name)).config_file).is_file():
        return Path(name).resolve()
    folders = {folder.relative_to(output_dir).as_posix(): folder for folder in find_runs(output_dir)}
    wanted = name.removesuffix("/").removesuffix("/latest")
    if wanted in folders:
        return folders[wanted].resolve()
    newest = next((folder for run, folder in folders.items() if run.rpartition("/")[0] == wanted), None)
    if newest is not None:
        return newest.resolve()
    begun = [run for run in folders if run.startswith(wanted)]
    if len(begun) == 1:
        return folders[begun[0]].resolve()
    if begun:
        more = f" and {len(begun) - _SHOWN} more" if len(begun) > _SHOWN else ""
        raise DataError(f"{name!r} matches {len(begun)} runs: {', '.join(begun[:_SHOWN])}{more}. Name one of them.")
    experiments = {run.rpartition("/")[0] for run in folders}
    close = difflib.get_close_matches(wanted, [*folders, *sorted(experiments)], _SHOWN, cutoff=0.4)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"`roadwork runs` lists its {len(folders)} runs."
    raise DataError(f"There is no run {name!r} in {output_dir}. {hint}")


def read_run_config(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration for resuming a run: its own, with `key=value` overrides on top.

    Raises:
        ConfigError: an override cannot be used, or the run has finished and no override asks for more epochs.
        DataError: the run's configuration or manifest is damaged.
    """
    begun = Run(folder).read_config()
    config = load_config(Run(folder).config_file, overrides)
    epochs, trained = begun.training.epochs, Run(folder).read_manifest().get("epochs_trained")
    is_asked_for_more = config.training.epochs > epochs or config.training.patience != begun.training.patience
    if trained is not None and not is_asked_for_more:
        raise ConfigError(
            f"{folder} has finished: {trained} of {epochs} epochs. To train it further, set more epochs, such as "
            f"training.epochs={epochs + 10}; if it stopped early, raise training.patience or set it to 0."
        )
    return config


def name_run(folder: Path) -> str:
    """The argument of `roadwork resume` for a run: its name, or its folder outside the default output folder."""
    output_dir = default_output_dir().resolve()
    inside = folder.resolve()
    return inside.relative_to(output_dir).as_posix() if inside.is_relative_to(output_dir) else str(folder)
