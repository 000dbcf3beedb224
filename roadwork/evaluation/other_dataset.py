"""Opens the dataset that `evaluate --on` names: a folder, a Hugging Face dataset, or a file of pairs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from roadwork.config import compose_config, parse_overrides, to_settings
from roadwork.core.errors import ConfigError, DataError
from roadwork.data.images import ImageSource
from roadwork.data.local import LABELS_FILES, read_local
from roadwork.data.open import open_dataset
from roadwork.data.source import dataset_key
from roadwork.data.table import SampleTable, column_text
from roadwork.settings import DataSettings, Settings

PAIRS_FILE = "pairs.csv"
PAIR_COLUMN = "pair"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_SECTIONS = ("data.", "evaluation.", "privacy.")
_NAMED_BY_ON = ("data.root", "data.hub.name")


@dataclass(frozen=True)
class Part:
    """Labelled photos to judge.

    Attributes:
        data: their settings; they identify the photos in the cache.
        table: N rows.
        source: their images.
        pairs: (N,) the pair of each row; None for photos that are not in pairs.
    """

    data: DataSettings
    table: SampleTable
    source: ImageSource
    pairs: np.ndarray | None = None


@dataclass(frozen=True)
class OtherDataset:
    """A dataset that a detector is judged on.

    Attributes:
        name: of its folder, for the results' folder and for readers.
        key: identifies it.
        settings: its configuration.
        photos: its labelled photos; None if a file of pairs alone was named.
        pairs: its pairs; None if it has none.
    """

    name: str
    key: str
    settings: Settings
    photos: Part | None
    pairs: Part | None


def open_other(on: str, overrides: Sequence[str], base: dict[str, Any]) -> OtherDataset:
    """The dataset of `--on`.

    Args:
        on: a folder, a labels file, `pairs.csv`, a parquet file or a glob of such, or a name on the hub.
        overrides: `key=value` of the sections data, evaluation and privacy.
        base: sections of the configuration below the overrides.

    Raises:
        ConfigError: an override cannot be used.
        DataError: there is no such dataset, or it cannot be used.
    """
    _check_overrides(overrides)
    given = Path(on)
    root = given.parent if given.name in (*LABELS_FILES, PAIRS_FILE) and given.is_file() else given
    source, name = _find_source(on, root)
    cfg = OmegaConf.merge(OmegaConf.create(base), {"data": source}, parse_overrides(overrides))
    settings = to_settings(compose_config(cfg))  # type: ignore[arg-type]  # merging mappings gives one
    only_pairs = given.name == PAIRS_FILE
    photos = None
    if not only_pairs:
        dataset = open_dataset(settings)
        photos = Part(settings.data, dataset.table, dataset.source)
    has_pairs = settings.data.mode == "local" and (root / PAIRS_FILE).is_file()
    return OtherDataset(
        name=f"{name}-pairs" if only_pairs else name,
        key=f"{dataset_key(settings.data)}{'-pairs' if only_pairs else ''}",
        settings=settings,
        photos=photos,
        pairs=_read_pairs(root, settings.data) if has_pairs else None,
    )


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        key = override.partition("=")[0]
        if key in _NAMED_BY_ON or not key.startswith(_SECTIONS):
            raise ConfigError(
                f"{override!r} cannot be used with --on. Allowed: keys that begin with {', '.join(_SECTIONS)} such as "
                f"data.columns.label=NAME, but not {' and '.join(_NAMED_BY_ON)}: --on names the dataset."
            )


def _find_source(on: str, root: Path) -> tuple[dict[str, Any], str]:
    """The settings of the section `data` that name the dataset, and its name."""
    hub = {"mode": "huggingface", "hub": {"name": on}}
    if root.is_dir():
        saved = any((root / name).is_file() for name in ("state.json", "dataset_dict.json"))
        labelled = any((root / name).is_file() for name in (*LABELS_FILES, PAIRS_FILE))
        name = _clean(root.resolve().name)
        if saved or (not labelled and next(root.rglob("*.parquet"), None) is not None):
            return hub, name
        return {"mode": "local", "root": str(root)}, name
    if (root.is_file() and root.suffix == ".parquet") or "*" in on:
        return hub, _clean(root.stem.replace("*", ""))
    if not root.exists() and _HUB_NAME.fullmatch(on):
        return hub, _clean(on)
    raise DataError(
        f"--on is {on}, and there is no such dataset. Allowed: a folder with {', '.join(LABELS_FILES)} or one folder "
        f"per class, a {PAIRS_FILE}, a save_to_disk folder, parquet files, or a name on the Hugging Face hub."
    )


def _clean(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "dataset"


def _read_pairs(root: Path, data: DataSettings) -> Part:
    """The pairs of `pairs.csv`: two photos each, one of Roadwork and one of None.

    Raises:
        DataError: there is no column `pair`, or a pair has other rows.
    """
    folder = "pairs" if (root / "pairs").is_dir() else "images"
    table, source = read_local(root, data.columns, data.class_names, labels_files=(PAIRS_FILE,), image_folder=folder)
    if PAIR_COLUMN not in table.slices:
        raise DataError(
            f"{root / PAIRS_FILE} has no column {PAIR_COLUMN!r}. Needed: filename, label and {PAIR_COLUMN}, with the "
            "same value for the two photos of a pair."
        )
    pairs = column_text(table.slices[PAIR_COLUMN])
    counts = pd.crosstab(pairs, table.labels).reindex(columns=[0, 1], fill_value=0)
    wrong = counts[(counts != 1).any(axis=1)]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataError(
            f"{root / PAIRS_FILE}: {len(wrong)} of {len(counts)} pairs do not have one photo of Roadwork and one of "
            f"None, first {wrong.index[0]!r} with {first[1]} and {first[0]}. Fix or remove them."
        )
    # Its own key in the cache: the folder's own photos have another.
    return Part(replace(data, root=str(root / PAIRS_FILE)), table, source, pairs)
