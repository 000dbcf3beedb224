"""The typed schema of a configuration: every key, its type, its default, and what it means.

The YAML files under ``configs/`` hold the keys that people edit; a test keeps their values equal to these
defaults. The comment above a field is its documentation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from roadwork.core.errors import ConfigError
from roadwork.settings.checks import MAX_SEED, check_at_least, check_range
from roadwork.settings.data import (
    AUGMENTATION_MODES,
    CACHE_MODES,
    DATA_MODES,
    ORIGINS,
    AugmentationSettings,
    DataloaderSettings,
    DataSettings,
    ExtraDatasetSettings,
    HubSettings,
    PreparedSettings,
    TrainAugmentationSettings,
)
from roadwork.settings.sampling import (
    DRAW_MODES,
    SPLIT_NAMES,
    SPLIT_STRATEGIES,
    GpsSamplingSettings,
    SplittingSettings,
)
from roadwork.settings.training import (
    ADAPTERS,
    LOSSES,
    POOLINGS,
    PRECISIONS,
    ModelSettings,
    TrackingSettings,
    TrainingSettings,
)

__all__ = [
    "ADAPTERS",
    "AUGMENTATION_MODES",
    "CACHE_MODES",
    "DATA_MODES",
    "DRAW_MODES",
    "LOSSES",
    "ORIGINS",
    "POOLINGS",
    "PRECISIONS",
    "SPLIT_NAMES",
    "SPLIT_STRATEGIES",
    "AugmentationSettings",
    "DataSettings",
    "DataloaderSettings",
    "EvaluationSettings",
    "ExtraDatasetSettings",
    "GpsSamplingSettings",
    "HubSettings",
    "ModelSettings",
    "PreparedSettings",
    "PrivacySettings",
    "Settings",
    "SplittingSettings",
    "TrackingSettings",
    "TrainAugmentationSettings",
    "TrainingSettings",
]


@dataclass
class EvaluationSettings:
    # The MCC that the run is held against.
    target_mcc: float = 0.99
    bootstrap_draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("evaluation.target_mcc", self.target_mcc, -1.0, 1.0)
        check_at_least("evaluation.bootstrap_draws", self.bootstrap_draws, 100)
        check_range("evaluation.seed", self.seed, 0, MAX_SEED)


@dataclass
class PrivacySettings:
    # Decimals of a degree that positions are rounded to in all that is written for others to see: 2 is about 1.1 km,
    # 1 about 11 km; null keeps them whole.
    coarsen_gps: int | None = None
    # Standard deviation of the Gaussian blur of photos in reports, in % of their short side; 0 leaves them as they are.
    # Nothing here finds faces or number plates: all of a photo is blurred, and a person looks whether that is enough.
    blur: float = 0.0

    def __post_init__(self) -> None:
        check_range("privacy.blur", self.blur, 0.0, 50.0)
        if self.coarsen_gps is not None:
            check_range("privacy.coarsen_gps", self.coarsen_gps, 0, 6)


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
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", self.experiment):
            raise ConfigError(
                f"experiment is {self.experiment!r}; it names a folder in {self.output_dir}. "
                "Allowed: letters, digits, '_', '-', '.' and '/' between names."
            )
