"""Settings of the dataset and of how its images reach the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roadwork.core.errors import ConfigError
from roadwork.settings.checks import check_at_least, check_choice, check_range, check_word_or_count
from roadwork.settings.sampling import SPLIT_NAMES, GpsSamplingSettings, SplittingSettings

ORIGINS = ("real", "generated")
TRAIN_ONLY = "train"
DATA_MODES = ("local", "huggingface")
AUGMENTATION_MODES = ("latest_2025", "heavy_kornia", "streetvision", "none")
ROW_FILTERS = ("none", "streetvision")
CACHE_MODES = ("auto", "ram", "none")
PREPARED_MODES = ("auto", "never", "require")


@dataclass
class HubSettings:
    # Name on the Hugging Face hub, a `save_to_disk` folder, or a folder or glob of parquet files.
    name: str = "natix-network-org/roadwork"
    # The hub dataset's own split to read; ours are made from it.
    split: str = "train"


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


@dataclass
class TrainAugmentationSettings:
    # `latest_2025` (TrivialAugment, then CutMix or MixUp), `heavy_kornia` (geometry, colour, weather, erasing),
    # `streetvision` (the pictures that its validator asks about), or `none`: the pictures as they are.
    mode: str = "latest_2025"
    # Share of batches mixed by CutMix or MixUp (latest_2025 only).
    mix_probability: float = 1.0
    # Of the mixed batches, the share that is CutMix; the others are MixUp.
    cutmix_share: float = 0.5
    # Beta distribution parameter of CutMix and of MixUp.
    cutmix_alpha: float = 1.0
    mixup_alpha: float = 0.2
    # Scales the strength of TrivialAugment's operations; 1.0 is the paper's wide range.
    trivial_strength: float = 1.0
    # Width of the photos over their height (streetvision only): it cuts squares out of photos that come squashed.
    photo_aspect: float = 4 / 3

    def __post_init__(self) -> None:
        for name in ("mix_probability", "cutmix_share", "trivial_strength"):
            check_range(f"data.augmentation.train.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("cutmix_alpha", "mixup_alpha"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"data.augmentation.train.{name} is {getattr(self, name)}; it must be above 0.")
        check_range("data.augmentation.train.photo_aspect", self.photo_aspect, 0.2, 5.0)

        # The mode itself is checked where it is used, with the message the contract fixes.


@dataclass
class AugmentationSettings:
    train: TrainAugmentationSettings = field(default_factory=TrainAugmentationSettings)


@dataclass
class DataloaderSettings:
    # Images a step, or `auto`: the largest that fits the device's memory, found by trying before training.
    batch_size: Any = 32
    # Worker processes; -1 chooses: none where images are held in RAM, else one a core up to 16.
    num_workers: int = -1
    # Batches each worker prepares ahead.
    prefetch_factor: int = 2
    # Copy batches to the device from page-locked memory; null: where the device is a GPU.
    pin_memory: bool | None = None
    # Keep the workers from one epoch to the next.
    persistent_workers: bool = True

    def __post_init__(self) -> None:
        check_word_or_count("data.dataloader.batch_size", self.batch_size, "auto")
        for name, low in (("num_workers", -1), ("prefetch_factor", 1)):
            check_at_least(f"data.dataloader.{name}", getattr(self, name), low)


@dataclass
class PreparedSettings:
    # The resized copy that `roadwork prepare` makes. Training reads it instead of the photos: `auto` where it is there
    # and fits, `never`, or `require` (the run stops without it).
    use: str = "auto"
    # Where it lies; null: in the user's cache folder (ROADWORK_CACHE).
    folder: str | None = None
    # Pixels of its images' shorter side; null: 1.15 x img_size, rounded up.
    short_side: int | None = None

    def __post_init__(self) -> None:
        check_choice("data.prepared.use", self.use, PREPARED_MODES)
        if self.short_side is not None:
            check_range("data.prepared.short_side", self.short_side, 32, 8192)


@dataclass
class DataSettings:
    # `local`: a folder of images with a labels file (or one folder a class). `huggingface`: see `hub`.
    mode: str = "local"
    # The dataset's folder (local mode). The shipped default is the demo data, made on first use.
    root: str = "${oc.env:ROADWORK_DATA,data/demo}"
    # splits.json; null: `<root>/splits.json`, else `outputs/splits.json`, else made.
    splits_file: str | None = None
    hub: HubSettings = field(default_factory=HubSettings)
    # Overrides of the columns found by name, e.g. {label: is_roadwork, latitude: y}.
    columns: dict[str, str] = field(default_factory=dict)
    # A csv of label corrections that `roadwork experiment cv` has listed and a person has filled in.
    label_corrections: str | None = None
    # `streetvision`: only the rows that its validator asks about, which are those of Roadwork with a
    # `scene_description` and those of None without one. `none`: all rows.
    row_filter: str = "none"
    # Names of class folders and of string labels.
    class_names: dict[str, int] = field(default_factory=lambda: {"None": 0, "Roadwork": 1})
    # Whether the dataset's pictures are `real` or `generated`; its own column `origin`, if any, says it row by row.
    origin: str = "real"
    # Further datasets to mix in, such as generated pictures: docs/mixing-datasets.md.
    extra: list[ExtraDatasetSettings] = field(default_factory=list)
    splitting: SplittingSettings = field(default_factory=SplittingSettings)
    # Share of rows in each split.
    splits: dict[str, float] = field(
        default_factory=lambda: {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
    )
    # Images are resized to img_size x img_size pixels.
    img_size: int = 224
    # Hold decoded images in RAM: `auto` where they fit a quarter of the free memory, `ram`, or `none`.
    cache: str = "auto"
    prepared: PreparedSettings = field(default_factory=PreparedSettings)
    # The run stops when a larger share of the images than this is missing or cannot be decoded.
    max_unreadable: float = 0.0
    gps_sampling: GpsSamplingSettings = field(default_factory=GpsSamplingSettings)
    # Draw every combination of these columns' values equally often: `label`, and columns of the dataset, such as
    # [label, city]. Takes the place of data.gps_sampling, which has to be off.
    balance: list[str] = field(default_factory=list)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    dataloader: DataloaderSettings = field(default_factory=DataloaderSettings)

    def __post_init__(self) -> None:
        check_choice("data.mode", self.mode, DATA_MODES)
        check_choice("data.row_filter", self.row_filter, ROW_FILTERS)
        check_choice("data.origin", self.origin, ORIGINS)
        check_extra(self.extra, self.dataset_name)
        self._check_balance()
        check_choice("data.cache", self.cache, CACHE_MODES)
        check_range("data.max_unreadable", self.max_unreadable, 0.0, 1.0)
        check_range("data.img_size", self.img_size, 32, 4096)
        if self.prepared.short_side is not None and self.prepared.short_side < self.img_size:
            raise ConfigError(
                f"data.prepared.short_side is {self.prepared.short_side}, below data.img_size, {self.img_size}: its "
                "images would be enlarged again. Leave it null, or make it larger."
            )
        if tuple(self.splits) != SPLIT_NAMES:
            raise ConfigError(
                f"data.splits names {list(self.splits)}; it must name {', '.join(SPLIT_NAMES)} in this order."
            )
        if any(ratio <= 0 for ratio in self.splits.values()) or abs(sum(self.splits.values()) - 1) > 1e-6:
            raise ConfigError(f"data.splits is {dict(self.splits)}; the four ratios must be positive and sum to 1.")
        if sorted(set(self.class_names.values())) != [0, 1]:
            raise ConfigError(
                f"data.class_names is {dict(self.class_names)}; it must map names to both 0 and 1, nothing else."
            )

    def _check_balance(self) -> None:
        weighted = [extra.dataset_name for extra in self.extra if extra.share is not None or extra.weight != 1]
        if self.balance and (self.gps_sampling.enabled or weighted):
            other = "data.gps_sampling.enabled is true" if self.gps_sampling.enabled else f"{weighted[0]} has a share"
            raise ConfigError(
                f"data.balance is {list(self.balance)} and {other}: each says how often rows are drawn. "
                "Set data.gps_sampling.enabled=false and no share or weight in data.extra, or data.balance=[]."
            )

    @property
    def dataset_name(self) -> str:
        """The name of the main dataset's folder, or on the hub."""
        return folder_name(self.root if self.mode == "local" else self.hub.name)
