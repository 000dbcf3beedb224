"""The whole configuration, with its small groups: evaluation and privacy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from roadwork.core.errors import ConfigError
from roadwork.settings.data import DataSettings
from roadwork.settings.limits import MAX_SEED, at_least, between, check_limits
from roadwork.settings.training import ModelSettings, TrackingSettings, TrainingSettings


@dataclass
class EvaluationSettings:
    target_mcc: float = field(default=0.99, metadata=between(-1.0, 1.0))
    """The MCC that the run should reach; reports compare the result with it."""
    bootstrap_draws: int = field(default=2000, metadata=at_least(100))
    """Bootstrap draws for the confidence intervals."""
    seed: int = field(default=0, metadata=between(0, MAX_SEED))
    """Seed of the bootstrap."""

    def __post_init__(self) -> None:
        check_limits(self, "evaluation")


@dataclass
class PrivacySettings:
    coarsen_gps: int | None = field(default=None, metadata=between(0, 6))
    """Decimals of a degree to which positions are rounded in reports and maps: 2 is about 1.1 km, 1 about 11 km.

    null: not rounded.
    """
    blur: float = field(default=0.0, metadata=between(0.0, 50.0))
    """Standard deviation of the Gaussian blur on photos in reports, in % of their short side; 0 for none.

    The whole photo is blurred: roadwork finds no faces or number plates. Check that the blur is enough.
    """

    def __post_init__(self) -> None:
        check_limits(self, "privacy")


@dataclass
class Settings:
    experiment: str = "default"
    """Name of the experiment; its runs are in `<output_dir>/<experiment>/`.

    Letters, digits, `_`, `-`, `.`, and `/` between names.
    """
    output_dir: str = "outputs"
    """The folder of all runs."""
    data: DataSettings = field(default_factory=DataSettings)
    """The dataset, its splits, sampling, augmentation and loading."""
    model: ModelSettings = field(default_factory=ModelSettings)
    """The network."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the weights are trained."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How results are evaluated."""
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    """Privacy of reports and maps."""
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    """Loggers in addition to TensorBoard."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", self.experiment):
            raise ConfigError(
                f"experiment is {self.experiment!r}; it names a folder in {self.output_dir}. "
                "Allowed: letters, digits, '_', '-', '.' and '/' between names."
            )
