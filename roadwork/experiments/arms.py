"""The arms of the experiment on GPS weighting: by which weights each draws its training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from roadwork.data.samplers.draws import WeightClasses, draw_systematic
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.evaluation.intervals import effective_groups
from roadwork.settings import GpsSamplingSettings

UNIFORM, GPS, PLACEBO = "uniform", "gps", "placebo"
# Draws uniformly in the first half of its steps, and by GPS in the second, which moves the last layer only.
LAST_LAYER = "gps_last_layer"
ARMS = (UNIFORM, "class_balanced", GPS, PLACEBO, LAST_LAYER, "gps_half_dose")
FACTS = ("effective_rows", "effective_groups", "weight_label_correlation", "roadwork_share", "roadwork_share_drawn")


@dataclass
class TrainingRows:
    """The rows that a head may learn from, as the sampler reads them.

    Attributes:
        gps: (n, 2) latitude, longitude in degrees, NaN where missing.
        labels: (n,) 0 or 1.
        groups: (n,) names.
    """

    gps: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def weigh_arms(
    rows: TrainingRows, centers_deg: np.ndarray, sampling: GpsSamplingSettings, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The weights (n,) of the training rows in each of `ARMS`; those of GPS come from the sampler itself.

    Args:
        rows: n training rows.
        centers_deg: (K, 2) the deployment's cluster centres.
        sampling: the configuration of the sampler.
        rng: of the placebo.
    """

    def weigh_by_gps(rows: TrainingRows, dose: float = 1.0) -> np.ndarray:
        sampler = GPSWeightedSampler(
            rows,
            centers_deg,
            n_clusters=len(centers_deg),
            weight_brackets=[[low, high, float(weight) ** dose] for low, high, weight in sampling.weight_brackets],
            random_seed=sampling.random_seed,
            missing_weight=sampling.missing_weight**dose,
            balance_labels=sampling.balance_labels,
        )
        return sampler.weights

    by_gps = weigh_by_gps(rows)
    label_counts = np.bincount(rows.labels, minlength=2)
    return {
        UNIFORM: np.ones(len(rows)),
        "class_balanced": len(rows) / (2 * label_counts[rows.labels]),
        GPS: by_gps,
        PLACEBO: weigh_by_gps(shuffle_positions(rows, rng)),
        LAST_LAYER: by_gps,
        "gps_half_dose": weigh_by_gps(rows, dose=0.5),
    }


def shuffle_positions(rows: TrainingRows, rng: np.random.Generator) -> TrainingRows:
    """The rows with their positions shuffled among groups, so that weights still come in runs of a group.

    The groups are laid end to end in one random order, their positions in another, and the first row takes the first
    position. So exactly the same positions are there, and with them the same weights. Where groups differ in size, the
    positions of one may fall to a part of a group, or to neighbours in the order.
    """
    _, codes = np.unique(rows.groups, return_inverse=True)
    n_groups = codes.max() + 1
    takers, givers = (np.argsort(rng.permutation(n_groups)[codes], kind="stable") for _ in range(2))
    gps = np.empty_like(rows.gps)
    gps[takers] = rows.gps[givers]
    return replace(rows, gps=gps)


def draw_rows(weights: np.ndarray, n_draws: int, seed: list[int]) -> np.ndarray:
    """(n_draws,) int64 row numbers: epoch after epoch, each drawn systematically by weight as the sampler does.

    Args:
        weights: (n,) of a few distinct values.
        n_draws: how many rows to draw in all.
        seed: numbers >= 0; the epoch is added to them.
    """
    values, index = np.unique(weights, return_inverse=True)
    classes = WeightClasses.from_index(index, values)
    n_epochs = -(-n_draws // len(weights))
    epochs = [draw_systematic(classes, np.random.default_rng([*seed, epoch])) for epoch in range(n_epochs)]
    return np.concatenate(epochs)[:n_draws].astype(np.int64)


def describe_weights(weights: np.ndarray, rows: TrainingRows) -> dict[str, float]:
    """What weights (n,) do to the training rows: one figure for each of `FACTS`.

    Effective numbers are Kish's, (sum w)^2 / sum w^2, of rows and of the groups' sums of weights. The correlation is
    Pearson's, 0 where all weights or labels are equal. The share drawn is the expected share of Roadwork in a batch.
    """
    _, codes = np.unique(rows.groups, return_inverse=True)
    is_constant = np.ptp(weights) == 0 or np.ptp(rows.labels) == 0
    figures = (
        effective_groups(weights),
        effective_groups(np.bincount(codes, weights)),
        0.0 if is_constant else float(np.corrcoef(weights, rows.labels)[0, 1]),
        float(rows.labels.mean()),
        float(weights @ rows.labels / weights.sum()),
    )
    return dict(zip(FACTS, figures, strict=True))
