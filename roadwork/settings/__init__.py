"""The typed schema of a configuration: every key with its type, default, meaning and limits.

The docstring under a field is its help in `roadwork config` and in the configuration reference.
The YAML files under `configs/` hold the keys that people edit; a test keeps their values equal to these defaults.
"""

from __future__ import annotations

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
from roadwork.settings.root import EvaluationSettings, PrivacySettings, Settings
from roadwork.settings.sampling import (
    CALIBRATION_SPLIT,
    DRAW_MODES,
    HELD_OUT_SPLITS,
    SELECTION_SPLIT,
    SPLIT_NAMES,
    SPLIT_STRATEGIES,
    TEST_SPLIT,
    TRAIN_SPLIT,
    VALIDATION_SPLITS,
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
    "CALIBRATION_SPLIT",
    "DATA_MODES",
    "DRAW_MODES",
    "HELD_OUT_SPLITS",
    "LOSSES",
    "ORIGINS",
    "POOLINGS",
    "PRECISIONS",
    "SELECTION_SPLIT",
    "SPLIT_NAMES",
    "SPLIT_STRATEGIES",
    "TEST_SPLIT",
    "TRAIN_SPLIT",
    "VALIDATION_SPLITS",
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
