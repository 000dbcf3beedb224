"""Settings of the dataset, its images, the augmentation and the data loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roadwork.core.errors import ConfigError
from roadwork.settings.limits import above, at_least, between, check_limits, count_or, one_of, share_below_one
from roadwork.settings.sampling import SPLIT_NAMES, TRAIN_SPLIT, GpsSamplingSettings, SplittingSettings

ORIGINS = ("real", "generated")
DATA_MODES = ("local", "huggingface")
AUGMENTATION_MODES = ("latest_2025", "heavy_kornia", "streetvision", "zoom_out", "none")
ROW_FILTERS = ("none", "streetvision")
CACHE_MODES = ("auto", "ram", "none")
PREPARED_MODES = ("auto", "never", "require")


@dataclass
class HubSettings:
    name: str = "natix-network-org/roadwork"
    """A name on the Hugging Face hub, a `save_to_disk` folder, or a folder or glob of parquet files."""
    split: str = "train"
    """The dataset's own split to read; roadwork makes its splits from it."""


@dataclass
class ExtraDatasetSettings:
    root: str | None = None
    """Its folder, as `data.root`. Set either this or `hub`."""
    hub: HubSettings | None = None
    """Its name and split, as `data.hub`."""
    name: str | None = None
    """Prefix of its rows' ids (`sdxl/0001.jpg`) and value of their column `source`; null: its folder's name."""
    origin: str = field(default="", metadata=one_of(ORIGINS))
    """Whether its photos are `real` or `generated`; required.

    A column `origin` in the dataset overrides it row by row.
    """
    share: float | None = field(default=None, metadata=share_below_one())
    """Share of the training draws; null: its rows are drawn by their weights, like all others."""
    weight: float = field(default=1.0, metadata=at_least(0.0))
    """Factor of its rows' sampling weights; 0 draws none. Not together with `share`."""
    splits: str | None = field(default=None, metadata=one_of((TRAIN_SPLIT,)))
    """`train`: its rows are only trained on; null: they are split together with the main dataset's."""
    generated_from: str | None = None
    """The column with the id or file name of the photo that an image was generated from; both stay in one split."""
    columns: dict[str, str] = field(default_factory=dict)
    """Its columns by their role, as `data.columns`."""
    class_names: dict[str, int] | None = None
    """Names of its class folders and string labels; null: `data.class_names`."""

    def __post_init__(self) -> None:
        if (self.root is None) == (self.hub is None):
            came = "neither" if self.root is None else "both"
            raise ConfigError(
                f"data.extra: a dataset has {came} of root and hub. "
                "Give one: root: FOLDER, or hub: {name: NAME, split: train}."
            )
        if not self.dataset_name or "/" in self.dataset_name:
            raise ConfigError(
                f"data.extra: the name {self.dataset_name!r} cannot be the prefix of an id. "
                "Give a `name` without a slash, such as sdxl."
            )
        key = f"data.extra ({self.dataset_name})"
        check_limits(self, key)
        if self.share is not None and self.weight != 1:
            raise ConfigError(
                f"{key} has a share ({self.share}) and a weight ({self.weight}); both set how often its rows are "
                "drawn. Keep `share` for a fixed part of every epoch, or `weight` for a multiple of the others' weight."
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
        """Whether its rows are only trained on."""
        return self.splits == TRAIN_SPLIT


def folder_name(name: str) -> str:
    """The last part of a folder's path or of a hub dataset's name."""
    return Path(name).name or Path(name).resolve().name


def check_extra(extra: Sequence[ExtraDatasetSettings], main_name: str) -> None:
    """Checks that the datasets' names differ and that their shares leave some draws to the others.

    Raises:
        ConfigError: a name is repeated, or the shares sum to 1 or more.
    """
    names = [main_name, *(dataset.dataset_name for dataset in extra)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if extra and repeated:
        raise ConfigError(
            f"{names.count(repeated[0])} datasets have the name {repeated[0]!r}; the main one is {main_name}. "
            "Give each entry of data.extra a `name` of its own."
        )
    total = sum(dataset.share or 0 for dataset in extra)
    if total >= 1:
        raise ConfigError(
            f"The shares of data.extra sum to {total:g}; the sum must be below 1, so that other rows are drawn too."
        )


@dataclass
class TrainAugmentationSettings:
    mode: str = field(default="latest_2025", metadata=one_of(AUGMENTATION_MODES))
    """How training batches are augmented.

    - `latest_2025`: TrivialAugment, then CutMix or MixUp.
    - `heavy_kornia`: geometry, colour, weather and erasing.
    - `streetvision`: the image changes that the StreetVision validator makes.
    - `zoom_out`: photos shrunk onto None photos, crops of None photos, colour and compression; for small objects.
    - `none`: no augmentation.
    """
    mix_probability: float = field(default=1.0, metadata=between(0.0, 1.0))
    """Share of batches that CutMix or MixUp mixes (latest_2025 only)."""
    cutmix_share: float = field(default=0.5, metadata=between(0.0, 1.0))
    """Share of the mixed batches that CutMix mixes; MixUp mixes the others."""
    cutmix_alpha: float = field(default=1.0, metadata=above(0))
    """Parameter of CutMix's beta distribution."""
    mixup_alpha: float = field(default=0.2, metadata=above(0))
    """Parameter of MixUp's beta distribution."""
    trivial_strength: float = field(default=1.0, metadata=between(0.0, 1.0))
    """Factor on the strength of TrivialAugment's operations; 1 is the paper's wide range."""
    photo_aspect: float = field(default=4 / 3, metadata=between(0.2, 5.0))
    """Width of the original photos over their height (streetvision only): undoes the squash before the square crop."""

    def __post_init__(self) -> None:
        # build_augmentation checks the mode, with the message that the contract fixes.
        check_limits(self, "data.augmentation.train", unchecked=("mode",))


@dataclass
class AugmentationSettings:
    train: TrainAugmentationSettings = field(default_factory=TrainAugmentationSettings)
    """Augmentation of training batches."""


@dataclass
class DataloaderSettings:
    batch_size: int | str = field(default=32, metadata=count_or("auto"))
    """Images in a batch, per device.

    `auto`: the largest that fits the device's memory, found by trial before training.
    """
    num_workers: int = field(default=-1, metadata=at_least(-1))
    """Worker processes; -1: none if the images are in RAM, else one per core up to 16."""
    prefetch_factor: int = field(default=2, metadata=at_least(1))
    """Batches that each worker prepares ahead."""
    pin_memory: bool | None = None
    """Copy batches to the device from page-locked memory; null: only if the device is a GPU."""
    persistent_workers: bool = True
    """Keep the workers from one epoch to the next."""

    def __post_init__(self) -> None:
        check_limits(self, "data.dataloader")

    @property
    def fixed_batch_size(self) -> int:
        """`batch_size` as a number.

        Raises:
            ConfigError: it is `auto` and no trial has replaced it yet.
        """
        if isinstance(self.batch_size, str):
            raise ConfigError(
                f"data.dataloader.batch_size is {self.batch_size}, which only `roadwork train` can resolve: it needs a "
                "network to try. Set a number."
            )
        return self.batch_size


@dataclass
class PreparedSettings:
    use: str = field(default="auto", metadata=one_of(PREPARED_MODES))
    """Whether training reads the resized copy that `roadwork prepare` makes.

    - `auto`: if the copy exists and fits the configuration.
    - `never`: always reads the photos.
    - `require`: the run stops without a copy.
    """
    folder: str | None = None
    """The copy's folder; null: in the user's cache folder (environment variable ROADWORK_CACHE)."""
    short_side: int | None = field(default=None, metadata=between(32, 8192))
    """Pixels of the shorter side of its images; null: 1.15 x data.img_size, rounded up."""

    def __post_init__(self) -> None:
        check_limits(self, "data.prepared")


@dataclass
class DataSettings:
    mode: str = field(default="local", metadata=one_of(DATA_MODES))
    """Where the images come from.

    - `local`: a folder of images with a labels file, or with one folder per class.
    - `huggingface`: the dataset of `data.hub`.
    """
    root: str = "${oc.env:ROADWORK_DATA,data/demo}"
    """The dataset's folder (local mode). The default is the demo data, made on first use."""
    splits_file: str | None = None
    """The splits.json to use; null: `<root>/splits.json`, else `outputs/splits.json`, else made."""
    hub: HubSettings = field(default_factory=HubSettings)
    """The Hugging Face dataset (huggingface mode)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns by their role, for those not found by name, such as {label: is_roadwork, latitude: y}."""
    label_corrections: str | None = None
    """A csv of label corrections, listed by `roadwork experiment cv` and filled in by a person."""
    row_filter: str = field(default="none", metadata=one_of(ROW_FILTERS))
    """Which rows are used.

    - `none`: all rows.
    - `streetvision`: Roadwork rows with a `scene_description` and None rows without one, as its validator asks.
    """
    class_names: dict[str, int] = field(default_factory=lambda: {"None": 0, "Roadwork": 1})
    """The label, 0 or 1, of each class folder or string label."""
    origin: str = field(default="real", metadata=one_of(ORIGINS))
    """Whether the photos are `real` or `generated`; a column `origin` in the dataset overrides it row by row."""
    extra: list[ExtraDatasetSettings] = field(default_factory=list)
    """Further datasets to mix in, such as generated images: docs/mixing-datasets.md."""
    splitting: SplittingSettings = field(default_factory=SplittingSettings)
    """How `roadwork split` makes the splits."""
    splits: dict[str, float] = field(
        default_factory=lambda: {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
    )
    """Share of the rows in each split; the four sum to 1."""
    img_size: int = field(default=224, metadata=between(32, 4096))
    """Height and width in pixels to which images are resized."""
    cache: str = field(default="auto", metadata=one_of(CACHE_MODES))
    """Whether decoded images are held in RAM.

    - `auto`: if they fit into a quarter of the free memory.
    - `ram`: always.
    - `none`: never.
    """
    prepared: PreparedSettings = field(default_factory=PreparedSettings)
    """The resized copy of the images."""
    max_unreadable: float = field(default=0.0, metadata=between(0.0, 1.0))
    """Largest share of missing or undecodable images; with more the run stops."""
    gps_sampling: GpsSamplingSettings = field(default_factory=GpsSamplingSettings)
    """The GPS-weighted sampler."""
    balance: list[str] = field(default_factory=list)
    """Draw every combination of these columns' values equally often: `label` and columns of the dataset.

    Example: [label, city]. It replaces the GPS-weighted sampler, which must be off.
    """
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    """Image augmentation."""
    dataloader: DataloaderSettings = field(default_factory=DataloaderSettings)
    """Batches and worker processes."""

    def __post_init__(self) -> None:
        check_limits(self, "data")
        check_extra(self.extra, self.dataset_name)
        self._check_balance()
        if self.prepared.short_side is not None and self.prepared.short_side < self.img_size:
            raise ConfigError(
                f"data.prepared.short_side is {self.prepared.short_side}, below data.img_size, {self.img_size}: its "
                "images would be enlarged again. Set it to null, or to a larger number."
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
                f"data.balance is {list(self.balance)} and {other}; both set how often rows are drawn. "
                "Set data.gps_sampling.enabled=false and no share or weight in data.extra, or data.balance=[]."
            )

    @property
    def dataset_name(self) -> str:
        """The name of the main dataset's folder, or on the hub."""
        return folder_name(self.root if self.mode == "local" else self.hub.name)
