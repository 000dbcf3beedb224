"""A run by its name, as `roadwork runs` prints it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from roadwork.config import load_config, load_yaml
from roadwork.errors import ConfigError, DataError
from roadwork.run_list import find_runs
from roadwork.runs import read_manifest

_SHOWN = 5
_SECTIONS = {"data", "model", "training"}


def default_output_dir() -> Path:
    """The `output_dir` of configs/config.yaml: the user's own where there is one, else the shipped one."""
    return Path(load_config("configs/config.yaml").output_dir)


def resolve_run(name: str, output_dir: Path) -> Path:
    """The folder of the run that `name` means.

    Args:
        name: a run's folder; else, below `output_dir`: `<experiment>/<time>`, `<experiment>` or `<experiment>/latest`
            for its newest run, or the beginning of one run's name alone.
        output_dir: where runs are.

    Raises:
        DataError: no run, or more than one, is meant; the message has the nearest names.
    """
    if (Path(name) / "config.yaml").is_file():
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
        raise DataError(
            f"{name!r} is the beginning of {len(begun)} runs: {', '.join(begun[:_SHOWN])}{more}. Say which."
        )
    experiments = {run.rpartition("/")[0] for run in folders}
    close = difflib.get_close_matches(wanted, [*folders, *sorted(experiments)], _SHOWN, cutoff=0.4)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"{len(folders)} runs are there: see `roadwork runs`."
    raise DataError(f"There is no run {name!r} in {output_dir}. {hint}")


def read_run_config(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The configuration that a run goes on with: its own, and `key=value` on top.

    Raises:
        ConfigError: an override cannot be used, or the run has finished and is not asked for more.
        DataError: the run's configuration or manifest is damaged.
    """
    begun = load_yaml(folder / "config.yaml")
    if not set(begun) >= _SECTIONS:  # what is missing would silently be the defaults
        raise DataError(f"{folder / 'config.yaml'} is not a run's whole configuration. Restore it, or train again.")
    config = load_config(folder / "config.yaml", overrides)
    epochs, trained = begun.training.epochs, read_manifest(folder).get("epochs_trained")
    is_asked_for_more = config.training.epochs > epochs or config.training.patience != begun.training.patience
    if trained is not None and not is_asked_for_more:
        raise ConfigError(
            f"{folder} has finished: {trained} of {epochs} epochs. To train it further, ask for more, such as "
            f"training.epochs={epochs + 10}; where it stopped early, raise training.patience or set it to 0."
        )
    return config


def name_run(folder: Path) -> str:
    """What `roadwork resume` takes for a run: its name, or its folder where it is not below the usual output folder."""
    output_dir = default_output_dir().resolve()
    inside = folder.resolve()
    return inside.relative_to(output_dir).as_posix() if inside.is_relative_to(output_dir) else str(folder)
