"""The typed schema of a configuration: every key, its type, its default, and what it means.

The YAML files under ``configs/`` hold the keys that people edit; a test keeps their values equal to these
defaults. The comment above a field is its documentation.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from roadwork.errors import ConfigError

SPLIT_NAMES = ("train", "val_select", "val_calib", "val_test")
DATA_MODES = ("local", "huggingface")
AUGMENTATION_MODES = ("latest_2025", "heavy_kornia")
ADAPTERS = ("none", "lora", "adalora", "vera", "ia3")
CACHE_MODES = ("auto", "ram", "none")
DRAW_MODES = ("systematic", "iid")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
SPLIT_STRATEGIES = ("geographic", "region_holdout", "temporal", "random")
MAX_SEED = 2**32 - 1  # NumPy's
MAX_BUFFER_KM = 1000.0


def _check_choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key} is {value!r}; allowed: {', '.join(allowed)}.")


def _check_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key} is {value}; it must be between {low} and {high}.")


def _check_at_least(key: str, value: float, low: float) -> None:
    if not low <= value < math.inf:
        raise ConfigError(f"{key} is {value}; it must be a number of at least {low}.")


@dataclass
class HubSettings:
    # Name on the Hugging Face hub, a `save_to_disk` folder, or a folder or glob of parquet files.
    name: str = "natix-network-org/roadwork"
    # The hub dataset's own split to read; ours are made from it.
    split: str = "train"


@dataclass
class SplittingSettings:
    # How `roadwork split` divides the rows. `geographic`: whole groups of neighbours. `region_holdout`: named regions
    # only in val_test. `temporal`: val_test after a date. `random`: row by row, for comparison only; it leaks.
    strategy: str = "geographic"
    # Seed of the assignment.
    seed: int = 42
    # Rows closer than this are never separated; 0 keeps only sequences and near-duplicates together.
    buffer_km: float = 1.0
    # Compare the images by perceptual hash, so that the same scene posted twice is not separated either.
    near_duplicates: bool = True
    # A group of neighbours with a larger share of the rows than this is divided along H3 cells, and the rows within
    # the buffer of another cell are set aside.
    max_group_share: float = 0.05
    # region_holdout: the regions that only val_test has, as H3 cells or as values of `region_column`.
    regions: list[str] = field(default_factory=list)
    # The dataset's column with the name of a row's region, such as its city.
    region_column: str | None = None
    # temporal: val_test begins at this moment (ISO 8601, such as 2025-06-01).
    after: str | None = None
    # The dataset's column with the time of a picture.
    time_column: str = "captured_at"
    # A column that fixes the split of some rows, such as an official test split; `pin_values` maps values to splits.
    pin_column: str | None = None
    pin_values: dict[str, str] = field(default_factory=lambda: {name: name for name in SPLIT_NAMES})

    def __post_init__(self) -> None:
        _check_choice("data.splitting.strategy", self.strategy, SPLIT_STRATEGIES)
        _check_range("data.splitting.seed", self.seed, 0, MAX_SEED)
        _check_range("data.splitting.buffer_km", self.buffer_km, 0.0, MAX_BUFFER_KM)
        _check_range("data.splitting.max_group_share", self.max_group_share, 0.001, 1.0)
        if self.strategy == "region_holdout" and not self.regions:
            raise ConfigError(
                "data.splitting.strategy is region_holdout, but data.splitting.regions is empty. Name the regions that "
                "only val_test may have: H3 cells, or values of data.splitting.region_column."
            )
        if self.strategy == "temporal" and self.after is None:
            raise ConfigError(
                "data.splitting.strategy is temporal, but data.splitting.after is null. "
                "Give the moment from which rows are val_test, such as 2025-06-01."
            )
        for value, name in self.pin_values.items():
            _check_choice(f"data.splitting.pin_values.{value}", name, SPLIT_NAMES)


@dataclass
class GpsSamplingSettings:
    # Weight training rows by their distance to where the detector will be deployed.
    enabled: bool = True
    # K-means clusters of the deployment's GPS, or `auto` (the fewest that cover 95 % within the first bracket).
    n_clusters: Any = 5
    # Half-open brackets [km from, km to, weight]; they must cover [0, inf) without gap or overlap.
    weight_brackets: list[list[float]] = field(
        default_factory=lambda: [[0, 50, 5.0], [50, 200, 2.5], [200, 500, 1.0], [500, math.inf, 0.3]]
    )
    # Seed of the clusters and of the draws; 0 is a seed like any other.
    random_seed: int = 42
    # Where deployment is: `auto`, a csv/parquet/GeoJSON file, a split's name (its coordinates, never its labels),
    # `dataset:NAME` (the dataset's own split of that name), or points: [[52.37, 4.90], [35.68, 139.65]].
    target: Any = "auto"
    # Weigh rows inside each bracket so that its share of Roadwork is the training set's, and no prior is shifted.
    balance_labels: bool = False
    # Weight of a row without GPS.
    missing_weight: float = 1.0
    # `systematic`: each row drawn the floor or ceiling of its expected count. `iid`: independent draws.
    draw: str = "systematic"
    # Warn when a smaller share of the training rows than this has GPS.
    min_coverage: float = 0.80

    def __post_init__(self) -> None:
        _check_choice("data.gps_sampling.draw", self.draw, DRAW_MODES)
        _check_range("data.gps_sampling.min_coverage", self.min_coverage, 0.0, 1.0)
        _check_at_least("data.gps_sampling.missing_weight", self.missing_weight, 0.0)
        _check_range("data.gps_sampling.random_seed", self.random_seed, 0, MAX_SEED)
        is_count = isinstance(self.n_clusters, int) and not isinstance(self.n_clusters, bool) and self.n_clusters >= 1
        if self.n_clusters != "auto" and not is_count:
            raise ConfigError(
                f"data.gps_sampling.n_clusters is {self.n_clusters!r}; allowed: auto, or a whole number >= 1."
            )


@dataclass
class TrainAugmentationSettings:
    # `latest_2025` (TrivialAugment, then CutMix or MixUp) or `heavy_kornia` (geometry, colour, weather, erasing).
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

    def __post_init__(self) -> None:
        for name in ("mix_probability", "cutmix_share", "trivial_strength"):
            _check_range(f"data.augmentation.train.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("cutmix_alpha", "mixup_alpha"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"data.augmentation.train.{name} is {getattr(self, name)}; it must be above 0.")
        # The mode itself is checked where it is used, with the message the contract fixes.


@dataclass
class AugmentationSettings:
    train: TrainAugmentationSettings = field(default_factory=TrainAugmentationSettings)


@dataclass
class DataloaderSettings:
    batch_size: int = 32
    # Worker processes; -1 chooses: none where images are held in RAM, else one a core up to 16.
    num_workers: int = -1
    # Batches each worker prepares ahead.
    prefetch_factor: int = 2

    def __post_init__(self) -> None:
        for name, low in (("batch_size", 1), ("num_workers", -1), ("prefetch_factor", 1)):
            _check_at_least(f"data.dataloader.{name}", getattr(self, name), low)


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
    # Names of class folders and of string labels.
    class_names: dict[str, int] = field(default_factory=lambda: {"None": 0, "Roadwork": 1})
    splitting: SplittingSettings = field(default_factory=SplittingSettings)
    # Share of rows in each split.
    splits: dict[str, float] = field(
        default_factory=lambda: {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10}
    )
    # Images are resized to img_size x img_size pixels.
    img_size: int = 224
    # Hold decoded images in RAM: `auto` where they fit a quarter of the free memory, `ram`, or `none`.
    cache: str = "auto"
    # The run stops when a larger share of the images than this is missing or cannot be decoded.
    max_unreadable: float = 0.0
    gps_sampling: GpsSamplingSettings = field(default_factory=GpsSamplingSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    dataloader: DataloaderSettings = field(default_factory=DataloaderSettings)

    def __post_init__(self) -> None:
        _check_choice("data.mode", self.mode, DATA_MODES)
        _check_choice("data.cache", self.cache, CACHE_MODES)
        _check_range("data.max_unreadable", self.max_unreadable, 0.0, 1.0)
        _check_range("data.img_size", self.img_size, 32, 4096)
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


@dataclass
class ModelSettings:
    # A hub name or a folder (pretrained: true), or a transformers model type such as `resnet` (pretrained: false).
    name: str = "resnet"
    # Load weights; false builds the architecture from its configuration with random weights.
    pretrained: bool = False
    # Fields of the transformers configuration to set; `model_type` here builds offline when pretrained is false.
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class TrainingSettings:
    epochs: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.05
    # Share of all steps over which the learning rate rises linearly; it then falls by a cosine.
    warmup: float = 0.05
    label_smoothing: float = 0.05
    # Gradients are clipped to this norm; 0 turns clipping off.
    clip_norm: float = 1.0
    # Optimizer steps use gradients of this many batches.
    accumulate: int = 1
    # `auto`: bf16-mixed where the device has bf16, else 32-true. Or one of these, or 16-mixed.
    precision: str = "auto"
    seed: int = 0
    deterministic: bool = False
    # Average the weights; validation and the best checkpoint then use the average.
    use_ema: bool = True
    ema_decay: float = 0.999
    # Let the decay grow from 0 as (1 + steps) / (10 + steps) up to ema_decay.
    ema_warmup: bool = True
    # Epochs without a better val_select/mcc before the run stops; 0 never stops early.
    patience: int = 10
    adapter: str = "none"
    # Rank of lora and adalora (vera's is 256).
    adapter_rank: int = 8
    # Lightning's accelerator: `auto`, `cpu`, `gpu`, `mps`. One device trains.
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("training.adapter", self.adapter, ADAPTERS)
        _check_choice("training.precision", self.precision, PRECISIONS)
        for name, low, high in (("warmup", 0.0, 1.0), ("label_smoothing", 0.0, 0.5), ("ema_decay", 0.0, 1.0)):
            _check_range(f"training.{name}", getattr(self, name), low, high)
        for name in ("epochs", "accumulate", "adapter_rank"):
            _check_at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("weight_decay", "clip_norm", "patience"):
            _check_at_least(f"training.{name}", getattr(self, name), 0)
        _check_range("training.seed", self.seed, 0, MAX_SEED)
        if not 0 < self.lr < math.inf:
            raise ConfigError(f"training.lr is {self.lr}; it must be a number above 0, or nothing is trained.")


@dataclass
class EvaluationSettings:
    # The MCC that the run is held against.
    target_mcc: float = 0.99
    bootstrap_draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        _check_range("evaluation.target_mcc", self.target_mcc, -1.0, 1.0)
        _check_at_least("evaluation.bootstrap_draws", self.bootstrap_draws, 100)
        _check_range("evaluation.seed", self.seed, 0, MAX_SEED)


@dataclass
class PrivacySettings:
    # Decimals of a degree that positions are rounded to in all that is written for others to see: 2 is about 1.1 km,
    # 1 about 11 km; null keeps them whole.
    coarsen_gps: int | None = None

    def __post_init__(self) -> None:
        if self.coarsen_gps is not None:
            _check_range("privacy.coarsen_gps", self.coarsen_gps, 0, 6)


@dataclass
class Settings:
    # Names the folder outputs/<experiment>/.
    experiment: str = "default"
    # Where runs are written.
    output_dir: str = "outputs"
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", self.experiment):
            raise ConfigError(
                f"experiment is {self.experiment!r}; it names a folder in {self.output_dir}. "
                "Allowed: letters, digits, '_', '-', '.' and '/' between names."
            )
