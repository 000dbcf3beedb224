"""Facts of a run for its model card: data, splits, metrics. They contain no path of this machine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork.metrics.decision import DEFAULT_THRESHOLD
from roadwork.runs.ensemble_record import is_ensemble, read_members
from roadwork.runs.run import Run, find_test_result
from roadwork.settings import Settings

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DEMO_SIGN = "Synthetic street scenes, drawn by roadwork"
_PRIVATE = "private photos"


@dataclass(frozen=True)
class DataFacts:
    """The dataset of a run.

    Attributes:
        name: name for people.
        hub_name: name on the Hugging Face hub; None if the dataset is not there.
        is_synthetic: whether its images are the demo's drawings.
    """

    name: str
    hub_name: str | None
    is_synthetic: bool


@dataclass(frozen=True)
class RunFacts:
    """The facts of a run that a model card shows.

    Attributes:
        settings: its configuration.
        data: its dataset.
        networks: the settings of each network: its own, or those of an ensemble's runs.
        base_models: hub names of the pretrained weights; empty for random weights or a folder.
        split_sizes: number of rows by split.
        fingerprint: fingerprint of the data; None if the manifest has none.
        result: metrics on `val_test`, at the exported threshold if available; None if the run was not evaluated.
        result_threshold: the threshold of `result`.
        across: what `calibrate --across` found, a sentence; empty without it.
    """

    settings: Settings
    data: DataFacts
    networks: tuple[Settings, ...]
    base_models: tuple[str, ...]
    split_sizes: dict[str, int]
    fingerprint: str | None
    result: dict[str, Any] | None
    result_threshold: float
    across: str = ""


def read_run_facts(run: Run, *, is_calibrated: bool) -> RunFacts:
    """The facts of a run.

    Args:
        run: the run.
        is_calibrated: whether its calibration is exported.

    Raises:
        DataError: the manifest or the calibration is damaged.
    """
    result = find_test_result(run.read_results(), is_calibrated=is_calibrated)
    settings = run.read_settings()
    calibration = (run.read_calibration() if is_calibrated else None) or {}
    splits = json.loads(run.splits_file.read_text(encoding="utf-8")) if run.splits_file.is_file() else {}
    members = read_members(run.folder) if is_ensemble(run.folder) else ()
    networks = tuple(member.run.read_settings() for member in members) or (settings,)
    names = (_hub_name(network.model.name) for network in networks if network.model.pretrained)
    return RunFacts(
        settings=settings,
        data=_describe_data(settings),
        networks=networks,
        base_models=tuple(dict.fromkeys(name for name in names if name)),
        split_sizes={name: len(ids) for name, ids in splits.get("splits", splits).items() if isinstance(ids, list)},
        fingerprint=run.read_manifest().get("data_fingerprint"),
        result=result,
        result_threshold=DEFAULT_THRESHOLD if result is None else result.get("threshold", DEFAULT_THRESHOLD),
        across=calibration.get("across", {}).get("sentence", ""),
    )


def _describe_data(settings: Settings) -> DataFacts:
    if settings.data.mode == "huggingface":
        name = _hub_name(settings.data.hub.name)
        return DataFacts(name or _PRIVATE, name, is_synthetic=False)
    try:
        about = (Path(settings.data.root) / "README.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        about = ""
    if about.startswith(_DEMO_SIGN):
        return DataFacts("roadwork demo data (synthetic street scenes)", None, is_synthetic=True)
    return DataFacts(_PRIVATE, None, is_synthetic=False)


def _hub_name(name: str) -> str | None:
    """The name if it is a hub name; None for a folder, whose path must not be published."""
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() and not name.startswith(".") else None
