"""The plan of an experiment: its fits, the files that make it resumable, and the runner that trains the fits."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config, load_yaml, to_settings
from roadwork.core.errors import ConfigError, DataError, SplitError
from roadwork.data.open import Dataset, open_dataset
from roadwork.data.splitting.splits import Splits
from roadwork.experiments.folds import find_across, find_regions, make_fold_splits, make_region_splits
from roadwork.metrics.classification import count_confusion, mcc
from roadwork.metrics.predictions import read_predictions
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import CALIBRATION_SPLIT, TRAIN_SPLIT
from roadwork.training.trainers.resume import MACHINE_KEYS, flat_keys

CROSS_VALIDATION, ABLATION, SIZE, ACROSS = "cv", "ablate", "size", "across"
KINDS = {
    CROSS_VALIDATION: "cross-validation",
    ABLATION: "ablation",
    SIZE: "size experiment",
    ACROSS: "cross-validation for calibrate --across",
}

# The advice in errors: `calibrate --across` has no option --resume.
_CONTINUE = "continue with --resume (or repeat `calibrate --across`)"
# Keys that may change on --resume: `evaluation` is read after training, `tracking` only names where curves go, and
# other splits or other data are detected by their rows.
_MAY_DIFFER = (*MACHINE_KEYS, "evaluation.", "tracking.")

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Fit:
    """One training run, evaluated on the fold that it does not train on.

    Attributes:
        folder: holds the run, and its results once the fit is finished.
        cfg: the run's configuration.
        splits: the fold's splits; `val_calib` is held out.
        fold: from 0.
        seed: of the training.
        condition: its name; empty in a cross-validation.
    """

    folder: Path
    cfg: DictConfig
    splits: Splits
    fold: int
    seed: int
    condition: str = ""

    @property
    def predictions_file(self) -> Path:
        return self.folder / "predictions.parquet"

    @property
    def facts_file(self) -> Path:
        """A cross-validation does not write it."""
        return self.folder / "fit.json"

    @property
    def is_finished(self) -> bool:
        """Whether the file that is written last exists; the other files are then complete."""
        return (self.facts_file if self.condition else self.predictions_file).is_file()

    @property
    def how_to_retrain(self) -> str:
        """The advice in errors about damaged files."""
        return f"Remove {self.folder}, then {_CONTINUE}, to train this fit again."

    def read_predictions(self) -> pd.DataFrame:
        """The stored predictions of the held-out rows.

        Raises:
            DataError: the file is missing or damaged, or has rows of another fold.
        """
        try:
            frame = read_predictions(self.predictions_file)
        except DataError as error:
            raise DataError(f"{error} {self.how_to_retrain}") from error
        foreign = set(frame["id"]) - set(self.splits.ids[CALIBRATION_SPLIT])
        if foreign:
            raise DataError(
                f"{self.predictions_file} has {len(foreign)} rows that its fold does not hold out, first "
                f"{min(foreign)!r}. {self.how_to_retrain}"
            )
        return frame

    def __str__(self) -> str:
        name = f"fold {self.fold + 1}"
        return f"{self.condition}, seed {self.seed}, {name}" if self.condition else name


@dataclass(frozen=True)
class Plan:
    """All fits of an experiment on the folds of one dataset; `val_test` is in no fold.

    Attributes:
        folder: `outputs/<experiment>/<kind>/<UTC time>/`.
        cfg: the configuration that all fits share.
        options: the command's options, as in the plan file.
        dataset: the rows, their images and groups.
        splits: of each fold.
        regions: (N,) region of each row if whole regions are held out, else None.
        fits: in training order.
    """

    folder: Path
    cfg: DictConfig
    options: Mapping[str, Any]
    dataset: Dataset
    splits: list[Splits]
    regions: np.ndarray | None = None
    fits: list[Fit] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        return self.dataset.settings

    @property
    def conditions(self) -> list[str]:
        """The names of the conditions, the baseline first."""
        return list(dict.fromkeys(fit.condition for fit in self.fits))

    @property
    def unfinished(self) -> list[Fit]:
        return [fit for fit in self.fits if not fit.is_finished]

    def splits_file(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}" / "splits.json"

    def add_fit(
        self,
        fold: int,
        condition: str = "",
        seed: int | None = None,
        overrides: Overrides | None = None,
        splits: Splits | None = None,
    ) -> None:
        """Adds a fit; it trains nothing.

        Args:
            fold: the fold to hold out.
            condition: its name; empty in a cross-validation.
            seed: of the training; None for the configured seed.
            overrides: what the fit sets beyond the common configuration, by dotted key.
            splits: of this fit, where they differ from the fold's; they are written.

        Raises:
            SplitError: an earlier plan in the folder has other splits for this fit.
        """
        seed = self.settings.training.seed if seed is None else seed
        parent = self.folder / "fits" if condition else self.folder
        name = f"{condition}/seed_{seed}_fold_{fold}" if condition else f"fold_{fold}"
        splits_file = self.splits_file(fold)
        if splits is not None:
            splits_file = self.folder / "draws" / name / "splits.json"
            write_or_check_splits(splits, splits_file)
        own = {"data.splits_file": str(splits_file), "output_dir": str(parent), "experiment": name}
        cfg = self.cfg.copy()
        for key, value in ((overrides or {}) | own).items():
            OmegaConf.update(cfg, key, value)
        self.fits.append(Fit(parent / name, cfg, splits or self.splits[fold], fold, seed, condition))


def begin_plan(
    cfg: DictConfig, kind: str, options: Mapping[str, Any], resume: str | None = None, folder: Path | None = None
) -> Plan:
    """Divides the data into folds, and writes the plan file and the splits of each fold; the plan has no fits yet.

    Args:
        cfg: the configuration that all fits share.
        kind: of `KINDS`; the plan file is `<kind>.yaml`.
        options: the command's options: `folds`, their number; `by`, `region` to hold out whole regions; and others.
            For `ACROSS`, only `by`: the column with the regions.
        resume: the folder of an earlier plan, or `latest`; its finished fits are kept.
        folder: of the plan, instead of a new one by time; a plan in it is resumed.

    Raises:
        RoadworkError: the data cannot be divided, or there is no such folder, or it holds another plan.
    """
    cfg = compose_config(cfg)
    settings = to_settings(cfg)
    begun = find_begun(settings, resume, kind) if resume else None
    if folder is not None and (folder / f"{kind}.yaml").is_file():
        begun = folder
    dataset = open_dataset(settings)
    splits, regions = _divide(dataset, kind, options)
    written = {
        **options,
        "data_fingerprint": dataset.table.fingerprint(),
        "config": OmegaConf.to_container(cfg, resolve=True),
    }
    if begun:
        check_same_plan(begun, written, kind)
    folder = begun or folder or Run.create(Path(settings.output_dir), f"{settings.experiment}/{kind}").folder
    plan = Plan(folder, cfg, options, dataset, splits, regions)
    for fold, own in enumerate(splits):
        write_or_check_splits(own, plan.splits_file(fold))
    OmegaConf.save(OmegaConf.create(written), folder / f"{kind}.yaml")
    return plan


def _divide(dataset: Dataset, kind: str, options: Mapping[str, Any]) -> tuple[list[Splits], np.ndarray | None]:
    """The splits of each fold, and the region of each row (N,) if whole regions are held out."""
    table, splitting = dataset.table, dataset.settings.data.splitting
    if kind == ACROSS:
        regions = find_across(table, options["by"])
        splits = make_region_splits(
            table, dataset.groups, dataset.splits, seed=splitting.seed, regions=regions, column=options["by"]
        )
        return splits, regions
    by_region = find_regions(table, splitting.region_column) if options.get("by") == "region" else None
    splits = make_fold_splits(
        table, dataset.groups, dataset.splits, options["folds"], seed=splitting.seed, regions=by_region
    )
    return splits, by_region


def _start_again(folder: Path, kind: str) -> str:
    """The advice in errors about a plan that cannot be resumed."""
    return f"remove {folder}" if kind == ACROSS else "start again without --resume"


def check_same_plan(folder: Path, plan: Mapping[str, Any], kind: str) -> None:
    """Compares the plan file `<kind>.yaml` of a folder with the plan that would resume it.

    Raises:
        DataError: the folder has no such plan, or the data differ.
        ConfigError: an option or a key differs.
    """
    plan_file = folder / f"{kind}.yaml"
    if not plan_file.is_file():
        raise DataError(
            f"{folder} holds no {KINDS[kind]}: {plan_file.name} is missing. "
            f"Give --resume a folder outputs/<experiment>/{kind}/<time> or `latest`, or start again without --resume."
        )
    before, now = flat_keys(OmegaConf.to_container(load_yaml(plan_file))), flat_keys(dict(plan))
    if before.get("data_fingerprint") != now["data_fingerprint"]:
        raise DataError(
            f"{folder} was started with other data: rows, labels, positions or sequences have changed in the dataset "
            f"or in data.label_corrections. Restore them, or {_start_again(folder, kind)}."
        )
    options = [key for key, value in plan.items() if not isinstance(value, dict)]
    differing = [
        f"{f'--{key}' if key in options else key.removeprefix('config.')} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before | now)
        if not key.removeprefix("config.").startswith(_MAY_DIFFER) and before.get(key) != now.get(key)
    ]
    if differing:
        raise ConfigError(
            f"{folder} was started with other settings: {'; '.join(differing[:5])}. Restore them, or "
            f"{_start_again(folder, kind)}."
        )


def write_or_check_splits(splits: Splits, path: Path) -> None:
    """Writes the splits of a fold; if the file exists, it must have the same rows.

    Raises:
        SplitError: the rows differ, or the file is damaged.
    """
    if not path.is_file():
        splits.write(path)
        return
    try:
        written = {name: set(ids) for name, ids in json.loads(path.read_bytes())["splits"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SplitError(f"{path} is damaged. Remove {path.parent}, then {_CONTINUE}.") from None
    if written != {name: set(ids) for name, ids in splits.ids.items()}:
        raise SplitError(
            f"{path} holds other rows than the data, splits and groups give now. "
            "Restore data.splits_file and the images, or start again in a new folder."
        )


def find_begun(settings: Settings, wanted: str, kind: str) -> Path:
    """The folder that `--resume` names: a path, or `latest`; raises DataError if there is none."""
    latest = Path(settings.output_dir) / settings.experiment / kind / "latest"
    folder = latest if wanted == "latest" else Path(wanted)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder} to resume. Start a new {KINDS[kind]} without --resume.")
    return folder.resolve()


def run_fits(plan: Plan, train: Callable[[Fit, bool], pd.DataFrame], show: Callable[[str], object]) -> None:
    """Trains the unfinished fits in order, and shows the score of each with the time left.

    Args:
        plan: its finished fits are kept.
        train: trains a fit, stores its predictions and returns them; True marks the first fit of its condition.
        show: receives each line.
    """
    waiting, n_fits = plan.unfinished, len(plan.fits)
    if len(waiting) < n_fits:
        show(f"{n_fits - len(waiting)} of {n_fits} fits are already finished.")
    seconds: dict[str, list[float]] = {}
    for number, fit in enumerate(waiting):
        started = time.monotonic()
        frame = train(fit, fit.condition not in seconds)
        seconds.setdefault(fit.condition, []).append(time.monotonic() - started)
        counts = count_confusion(frame["label"].to_numpy(), frame["probability"].to_numpy())
        left = timedelta(seconds=round(estimate_left(seconds, [own.condition for own in waiting[number + 1 :]])))
        show(
            f"{n_fits - len(waiting) + number + 1} of {n_fits}: {fit}: MCC {float(mcc(counts)):.3f}, "
            f"{counts[1] + counts[2]:,} errors in {len(frame):,} held-out rows; {left} left."
        )


def estimate_left(seconds: Mapping[str, Sequence[float]], waiting: Sequence[str]) -> float:
    """Seconds for the remaining fits, given the seconds of finished fits by condition.

    A remaining fit takes the mean of its condition, or of all conditions if its own has none yet.
    """
    overall = np.mean([value for own in seconds.values() for value in own])
    return float(sum(np.mean(seconds.get(condition, overall)) for condition in waiting))


def count_epoch_steps(splits: Splits, settings: Settings) -> int:
    """Optimizer steps of one epoch on the training rows."""
    batches = math.ceil(len(splits.ids[TRAIN_SPLIT]) / settings.data.dataloader.fixed_batch_size)
    return math.ceil(batches / settings.training.accumulate)


def check_one_device(settings: Settings) -> None:
    """Checks that each fit trains on one device with a fixed batch size, so that its steps can be planned.

    Raises:
        ConfigError: it does not.
    """
    training = settings.training
    if (training.devices, training.num_nodes) != (1, 1):
        raise ConfigError(
            f"training.devices is {training.devices} and training.num_nodes is {training.num_nodes}, but each fit of "
            "an experiment trains on one device. Set both to 1."
        )
    if settings.data.dataloader.batch_size == "auto":
        raise ConfigError(
            "data.dataloader.batch_size is auto, so fits could train with different batch sizes and numbers of steps. "
            "Set a number."
        )
