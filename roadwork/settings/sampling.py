"""Settings of the splits and of the GPS-weighted sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from roadwork.core.errors import ConfigError
from roadwork.settings.limits import MAX_SEED, at_least, between, check_limits, count_or, one_of

SPLIT_NAMES = ("train", "val_select", "val_calib", "val_test")
TRAIN_SPLIT, SELECTION_SPLIT, CALIBRATION_SPLIT, TEST_SPLIT = SPLIT_NAMES
VALIDATION_SPLITS = (SELECTION_SPLIT, CALIBRATION_SPLIT)
HELD_OUT_SPLITS = (*VALIDATION_SPLITS, TEST_SPLIT)
SPLIT_STRATEGIES = ("geographic", "region_holdout", "temporal", "random")
DRAW_MODES = ("systematic", "iid")
MAX_BUFFER_KM = 1000.0


@dataclass
class SplittingSettings:
    strategy: str = field(default="geographic", metadata=one_of(SPLIT_STRATEGIES))
    """How `roadwork split` divides the rows.

    - `geographic`: keeps groups of neighbouring rows together.
    - `region_holdout`: puts the named regions into val_test only.
    - `temporal`: puts the rows from a date on into val_test.
    - `random`: row by row; for comparison only, because neighbouring photos leak between splits.
    """
    seed: int = field(default=42, metadata=between(0, MAX_SEED))
    """Seed of the assignment."""
    buffer_km: float = field(default=1.0, metadata=between(0.0, MAX_BUFFER_KM))
    """Rows closer than this many kilometres stay in one split.

    0 keeps only sequences and near-duplicates together.
    """
    near_duplicates: bool = True
    """Compare images by perceptual hash, and keep near-duplicates in one split."""
    max_group_share: float = field(default=0.05, metadata=between(0.001, 1.0))
    """Largest share of the rows in one group of neighbours.

    A larger group is divided along H3 cells, and rows within the buffer of another cell are set aside.
    """
    regions: list[str] = field(default_factory=list)
    """For region_holdout: the regions of val_test, as H3 cells or as values of `region_column`."""
    region_column: str | None = None
    """The dataset's column with the region of a row, such as its city."""
    after: str | None = None
    """For temporal: the moment from which rows belong to val_test, in ISO 8601, such as 2025-06-01."""
    time_column: str = "captured_at"
    """The dataset's column with the time of a photo."""
    pin_column: str | None = None
    """A column that fixes the split of some rows, such as an official test split."""
    pin_values: dict[str, str] = field(default_factory=lambda: {name: name for name in SPLIT_NAMES})
    """The split that each value of `pin_column` means."""

    def __post_init__(self) -> None:
        check_limits(self, "data.splitting")
        if self.strategy == "region_holdout" and not self.regions:
            raise ConfigError(
                "data.splitting.strategy is region_holdout, but data.splitting.regions is empty. "
                "List the regions of val_test: H3 cells, or values of data.splitting.region_column."
            )
        if self.strategy == "temporal" and self.after is None:
            raise ConfigError(
                "data.splitting.strategy is temporal, but data.splitting.after is null. "
                "Set the moment from which rows belong to val_test, such as 2025-06-01."
            )
        for value, name in self.pin_values.items():
            if name not in SPLIT_NAMES:
                raise ConfigError(f"data.splitting.pin_values.{value} is {name!r}; allowed: {', '.join(SPLIT_NAMES)}.")


@dataclass
class GpsSamplingSettings:
    enabled: bool = True
    """Weight training rows by their distance to the deployment."""
    n_clusters: int | str = field(default=5, metadata=count_or("auto"))
    """K-means clusters of the deployment's GPS.

    `auto`: the fewest, up to 64, with 95 % of the points inside the first bracket.
    """
    weight_brackets: list[list[float]] = field(
        default_factory=lambda: [[0, 50, 5.0], [50, 200, 2.5], [200, 500, 1.0], [500, math.inf, 0.3]]
    )
    """Half-open brackets [km from, km to, weight].

    Together they cover [0, inf) without gap or overlap.
    """
    random_seed: int = field(default=42, metadata=between(0, MAX_SEED))
    """Seed of the clusters and of the draws."""
    target: Any = "auto"
    """Where the detector will be deployed.

    - `auto`: `<root>/deployment.geojson` (or .csv, .parquet) if it exists, else val_test.
    - A csv, parquet or GeoJSON file.
    - The name of a split: its coordinates, never its labels.
    - `dataset:NAME`: the split of that name in the dataset itself.
    - A list of points [latitude, longitude] in degrees: [[52.37, 4.90], [35.68, 139.65]].
    """
    balance_labels: bool = False
    """Weight the rows of each bracket so that its share of Roadwork equals the training set's."""
    missing_weight: float = field(default=1.0, metadata=at_least(0.0))
    """Weight of a row without GPS."""
    draw: str = field(default="systematic", metadata=one_of(DRAW_MODES))
    """How an epoch is drawn.

    - `systematic`: each row as often as the floor or ceiling of its expected count.
    - `iid`: independent draws.
    """
    min_coverage: float = field(default=0.80, metadata=between(0.0, 1.0))
    """Warn if a smaller share of the training rows than this has GPS."""

    def __post_init__(self) -> None:
        check_limits(self, "data.gps_sampling")
