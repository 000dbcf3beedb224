"""A further dataset that is mixed in with the main one, such as generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roadwork.errors import ConfigError
from roadwork.settings.checks import check_at_least, check_choice
from roadwork.settings.hub import HubSettings

ORIGINS = ("real", "generated")
TRAIN_ONLY = "train"


@dataclass
class ExtraDatasetSettings:
    # Its folder, as `data.root`. Either this or `hub`.
    root: str | None = None
    # Its name and split, as `data.hub`.
    hub: HubSettings | None = None
    # Stands before its rows' ids (`sdxl/0001.jpg`) and in the column `source`; null: its folder's name.
    name: str | None = None
    # `real` or `generated`. Where it has a column `origin` with these words, that says it row by row.
    origin: str = ""
    # Share of the training draws; null: its rows are drawn by their weights, like all others.
    share: float | None = None
    # Factor of its rows' sampling weights beside the others'. Not together with `share`; 0 draws none.
    weight: float = 1.0
    # null: its rows are split together with the main ones. `train`: they are trained on and never judged by.
    splits: str | None = None
    # The column that names the photo which a picture was made from, by id or file name; they are never separated.
    generated_from: str | None = None
    # Overrides of its columns found by name, as `data.columns`.
    columns: dict[str, str] = field(default_factory=dict)
    # Names of its class folders and string labels; null: `data.class_names`.
    class_names: dict[str, int] | None = None

    def __post_init__(self) -> None:
        if (self.root is None) == (self.hub is None):
            came = "neither" if self.root is None else "both"
            raise ConfigError(
                f"data.extra: a dataset has {came} of root and hub. "
                "Give one: root: FOLDER, or hub: {name: NAME, split: train}."
            )
        if not self.dataset_name or "/" in self.dataset_name:
            raise ConfigError(
                f"data.extra: the name {self.dataset_name!r} cannot stand before an id. "
                "Give a `name` without a slash, such as sdxl."
            )
        key = f"data.extra ({self.dataset_name})"
        check_choice(f"{key}.origin", self.origin, ORIGINS)
        check_at_least(f"{key}.weight", self.weight, 0.0)
        if self.share is not None and not 0 <= self.share < 1:
            raise ConfigError(f"{key}.share is {self.share}; it must be at least 0 and below 1: a share of all draws.")
        if self.share is not None and self.weight != 1:
            raise ConfigError(
                f"{key} has a share ({self.share}) and a weight ({self.weight}), and each says how often its rows are "
                "drawn. Keep `share` for a fixed part of every epoch, or `weight` for so many times others' weight."
            )
        if self.splits not in (None, TRAIN_ONLY):
            raise ConfigError(
                f"{key}.splits is {self.splits!r}; allowed: null (split with the main dataset's rows), {TRAIN_ONLY}."
            )
        if self.class_names is not None and not set(self.class_names.values()) <= {0, 1}:
            raise ConfigError(f"{key}.class_names is {dict(self.class_names)}; it must map names to 0 or 1.")

    @property
    def dataset_name(self) -> str:
        """Its `name`, else that of its folder or hub dataset."""
        if self.name is not None:
            return self.name
        return folder_name(self.root) if self.root is not None else folder_name(self.hub.name if self.hub else "")

    @property
    def is_train_only(self) -> bool:
        return self.splits == TRAIN_ONLY


def folder_name(name: str) -> str:
    """The last part of a folder's path or of a hub dataset's name."""
    return Path(name).name or Path(name).resolve().name


def check_extra(extra: Sequence[ExtraDatasetSettings], main_name: str) -> None:
    """Whether the datasets' names differ and their shares leave something to the others.

    Raises:
        ConfigError: they do not.
    """
    names = [main_name, *(dataset.dataset_name for dataset in extra)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if extra and repeated:
        raise ConfigError(
            f"{names.count(repeated[0])} datasets have the name {repeated[0]!r}, the main one ({main_name}) counted. "
            "Give each of data.extra a `name` of its own."
        )
    total = sum(dataset.share or 0 for dataset in extra)
    if total >= 1:
        raise ConfigError(
            f"The shares of data.extra sum to {total:g}; they must stay below 1, and leave the rest to the other data."
        )
