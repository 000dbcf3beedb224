"""Which rows are separated, and which are drawn how often."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from roadwork.core.errors import ConfigError
from roadwork.settings.checks import MAX_SEED, check_at_least, check_choice, check_range, check_word_or_count

SPLIT_NAMES = ("train", "val_select", "val_calib", "val_test")
TRAIN_SPLIT, SELECTION_SPLIT, CALIBRATION_SPLIT, TEST_SPLIT = SPLIT_NAMES
VALIDATION_SPLITS = (SELECTION_SPLIT, CALIBRATION_SPLIT)
HELD_OUT_SPLITS = (*VALIDATION_SPLITS, TEST_SPLIT)
SPLIT_STRATEGIES = ("geographic", "region_holdout", "temporal", "random")
DRAW_MODES = ("systematic", "iid")
MAX_BUFFER_KM = 1000.0


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
        check_choice("data.splitting.strategy", self.strategy, SPLIT_STRATEGIES)
        check_range("data.splitting.seed", self.seed, 0, MAX_SEED)
        check_range("data.splitting.buffer_km", self.buffer_km, 0.0, MAX_BUFFER_KM)
        check_range("data.splitting.max_group_share", self.max_group_share, 0.001, 1.0)
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
            check_choice(f"data.splitting.pin_values.{value}", name, SPLIT_NAMES)


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
        check_choice("data.gps_sampling.draw", self.draw, DRAW_MODES)
        check_range("data.gps_sampling.min_coverage", self.min_coverage, 0.0, 1.0)
        check_at_least("data.gps_sampling.missing_weight", self.missing_weight, 0.0)
        check_range("data.gps_sampling.random_seed", self.random_seed, 0, MAX_SEED)
        check_word_or_count("data.gps_sampling.n_clusters", self.n_clusters, "auto")
