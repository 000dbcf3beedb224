"""What is known of a run that its model card tells: data, splits, figures. No path and no name of a machine."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roadwork.calibration.run import RESULT_KEY
from roadwork.detector.format import ExportFacts
from roadwork.runs.ensemble_record import is_ensemble, read_members
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DEMO_SIGN = "Synthetic street scenes, drawn by roadwork"


@dataclass(frozen=True)
class DataFacts:
    """Where a run's photos are from.

    Attributes:
        name: for people.
        hub_name: on the Hugging Face hub; None for a dataset that is not there.
        is_synthetic: whether they are the demo's drawings.
    """

    name: str
    hub_name: str | None
    is_synthetic: bool


@dataclass(frozen=True)
class RunFacts:
    """What a model card tells of a run.

    Attributes:
        settings: its configuration.
        data: where its photos are from.
        networks: the configuration of each network in it: its own, or those of an ensemble's runs.
        base_models: the hub names of the weights they started from; none for random ones, or a folder.
        split_sizes: rows by split.
        fingerprint: of the data; None where the manifest has none.
        result: the part of results.json on `val_test`: at the threshold that is exported, where there is one; None
            where the run was not evaluated.
        result_threshold: at which `result` was decided.
    """

    settings: Settings
    data: DataFacts
    networks: tuple[Settings, ...]
    base_models: tuple[str, ...]
    split_sizes: dict[str, int]
    fingerprint: str | None
    result: dict[str, Any] | None
    result_threshold: float


def read_run_facts(run: Path, settings: Settings, facts: ExportFacts | None) -> RunFacts:
    """The facts of a run's folder.

    Args:
        run: the folder.
        settings: of its configuration.
        facts: its calibration; None where it has none.

    Raises:
        DataError: the manifest is damaged.
    """
    results = Run(run).read_results()
    calibrated = results.get(RESULT_KEY) if facts is not None else None
    at = facts.threshold if facts is not None and calibrated else 0.5
    path = Run(run).splits_file
    splits = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    networks = tuple(member.read_settings() for member in read_members(run)) if is_ensemble(run) else (settings,)
    names = (_hub_name(network.model.name) for network in networks if network.model.pretrained)
    return RunFacts(
        settings=settings,
        data=_describe_data(settings),
        networks=networks,
        base_models=tuple(dict.fromkeys(name for name in names if name)),
        split_sizes={name: len(ids) for name, ids in splits.get("splits", splits).items() if isinstance(ids, list)},
        fingerprint=Run(run).read_manifest().get("data_fingerprint"),
        result=calibrated or results.get(TEST_SPLIT),
        result_threshold=at,
    )


def _describe_data(settings: Settings) -> DataFacts:
    if settings.data.mode == "huggingface":
        name = _hub_name(settings.data.hub.name)
        return DataFacts(name or "photos of the author's own", name, is_synthetic=False)
    try:
        about = (Path(settings.data.root) / "README.txt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        about = ""
    if about.startswith(_DEMO_SIGN):
        return DataFacts("roadwork demo data (synthetic street scenes)", None, is_synthetic=True)
    return DataFacts("photos of the author's own", None, is_synthetic=False)


def _hub_name(name: str) -> str | None:
    """The name, where it is one on the hub and no folder here, which would tell of this machine."""
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() and not name.startswith(".") else None
