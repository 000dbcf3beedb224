"""The effect of a weighted sampler: shares of draws, effective sample size, oversampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from roadwork.data.samplers.clusters import Clusters
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.weights import DistanceStrata, stratum_weights

# Recipes that train from scratch show each photo about 100 times (ResNet on ImageNet: 90 epochs). Beyond that the
# network memorizes photos.
MAX_REPEATS = 100


@dataclass(frozen=True)
class Repeats:
    """Oversampling: how often a run draws each of its training rows.

    Attributes:
        n_rows: rows of the training split, and draws of an epoch.
        effective_rows: Kish's effective sample size of the sampler's weights, (sum w)^2 / sum w^2.
        epochs: epochs of the run.
    """

    n_rows: int
    effective_rows: float
    epochs: int

    @classmethod
    def of(cls, sampler: object, n_rows: int, epochs: int) -> Repeats:
        """The repeats of a sampler of `n_rows` rows; any but ours is assumed to draw uniformly."""
        return cls(n_rows, sampler.effective_rows if isinstance(sampler, StratifiedSampler) else float(n_rows), epochs)

    @property
    def per_row(self) -> float:
        """How often each effective row is seen."""
        return self.epochs * self.n_rows / self.effective_rows

    @property
    def are_too_many(self) -> bool:
        return self.per_row > MAX_REPEATS

    @property
    def advice(self) -> str:
        """How to reduce the oversampling."""
        fitting = max(1, int(MAX_REPEATS * self.effective_rows / self.n_rows))
        return (
            f"set training.epochs to {fitting} or less, even out data.gps_sampling.weight_brackets, or add photos near "
            "the deployment"
        )

    def __str__(self) -> str:
        text = (
            f"{self.epochs} epochs of {self.n_rows:,} draws with an effective sample size of "
            f"{self.effective_rows:,.0f} rows: each of them is seen about {self.per_row:.0f} times"
        )
        return f"{text}, more than {MAX_REPEATS}: {self.advice}." if self.are_too_many else f"{text}."


@dataclass(frozen=True)
class LabelSummary:
    """How the weighting shifts the share of Roadwork (label 1).

    Attributes:
        share_of_rows: share among the dataset's rows.
        share_by_distance: expected share among draws weighted by distance alone.
        share_of_draws: expected share among the draws; equals `share_of_rows` if every bracket is balanced.
        correlation_by_distance: Pearson's, over the rows, between weight by distance alone and label.
        correlation: the same for the final weight; both are NaN if all weights or all labels are equal.
        is_balanced: whether balancing is on.
        unbalanced: brackets that cannot be balanced, because all their rows have one label.
    """

    share_of_rows: float
    share_by_distance: float
    share_of_draws: float
    correlation_by_distance: float
    correlation: float
    is_balanced: bool
    unbalanced: tuple[str, ...]


@dataclass(frozen=True)
class SamplerSummary:
    """How weighting by distance shifts the training distribution.

    Attributes:
        n_rows: rows of the dataset.
        n_missing: rows without GPS.
        bracket_names: (C,) names, the last for rows without GPS; each of several datasets has its own.
        bracket_weights: (C,) weight of each row of the bracket; their mean if labels are balanced.
        row_shares: (C,) share of the rows in each bracket.
        draw_shares: (C,) expected share of the draws from each bracket.
        effective_rows: Kish's effective sample size, (sum w)^2 / sum w^2; N if all weights are equal.
        mean_distance_uniform_km: mean distance to the nearest deployment centre of rows drawn uniformly.
        mean_distance_weighted_km: the same for rows drawn by weight; both are NaN if no such row has GPS.
        clusters: clusters of the deployment.
        labels: the effect on labels; None if the dataset has none.
    """

    n_rows: int
    n_missing: int
    bracket_names: tuple[str, ...]
    bracket_weights: np.ndarray
    row_shares: np.ndarray
    draw_shares: np.ndarray
    effective_rows: float
    mean_distance_uniform_km: float
    mean_distance_weighted_km: float
    clusters: Clusters
    labels: LabelSummary | None

    def __str__(self) -> str:
        width = max(14, *(len(name) + 2 for name in self.bracket_names))
        lines = [
            f"GPS sampling: {self.n_rows} rows, {self.n_missing} without GPS",
            f"mean distance to the nearest centre, uniform draws:  {self.mean_distance_uniform_km:.0f} km",
            f"mean distance to the nearest centre, weighted draws: {self.mean_distance_weighted_km:.0f} km",
            f"effective sample size: {self.effective_rows:.0f} rows ({self.effective_rows / self.n_rows:.0%})",
            *(_label_lines(self.labels) if self.labels else ()),
            f"{'distance':<{width}}{'weight':>8}{'of rows':>10}{'of draws':>10}",
        ]
        brackets = zip(self.bracket_names, self.bracket_weights, self.row_shares, self.draw_shares, strict=True)
        lines += [f"{name:<{width}}{weight:>8.4g}{rows:>10.1%}{draws:>10.1%}" for name, weight, rows, draws in brackets]
        lines.append(f"{'centre (lat, lon)':<22}{'points':>8}{'radius km':>11}")
        clusters = zip(self.clusters.centers_deg, self.clusters.sizes, self.clusters.radius_km, strict=True)
        lines += [f"{f'{lat:.3f}, {lon:.3f}':<22}{size:>8}{radius:>11.1f}" for (lat, lon), size, radius in clusters]
        return "\n".join(lines)


def name_brackets(bracket_names: tuple[str, ...], dataset_names: tuple[str, ...]) -> tuple[str, ...]:
    """(C,) names of the brackets of each dataset; all datasets but the first are a prefix."""
    names = (*bracket_names, "without GPS")
    further = (f"{dataset}: {name}" for dataset in dataset_names[1:] for name in names)
    return (*names, *further)


def summarize(
    measured: DistanceStrata,
    bracket_names: tuple[str, ...],
    bracket_weights: np.ndarray,
    clusters: Clusters,
    *,
    has_labels: bool,
    balance_labels: bool,
) -> SamplerSummary:
    """The summary of a sampler from its strata; ``bracket_weights`` (C,) are by dataset and distance alone."""
    sizes, km, has_gps = measured.sizes, measured.km, measured.has_gps
    by_distance = stratum_weights(sizes, bracket_weights, balance_labels=False)
    weights = stratum_weights(sizes, bracket_weights, balance_labels=balance_labels)
    mixed = (sizes > 0).all(axis=1)
    present = sizes.any(axis=1)
    labels = LabelSummary(
        share_of_rows=_share_of_ones(sizes),
        share_by_distance=_share_of_ones(sizes * by_distance),
        share_of_draws=_share_of_ones(sizes * weights),
        correlation_by_distance=_correlation_with_label(sizes, by_distance),
        correlation=_correlation_with_label(sizes, weights),
        is_balanced=balance_labels,
        unbalanced=tuple(np.array(bracket_names)[present & ~mixed].tolist()) if balance_labels else (),
    )
    weight_sums = sizes * weights
    return SamplerSummary(
        n_rows=int(sizes.sum()),
        n_missing=int(sizes[~has_gps].sum()),
        bracket_names=bracket_names,
        bracket_weights=bracket_weights,
        row_shares=sizes.sum(axis=1) / sizes.sum(),
        draw_shares=weight_sums.sum(axis=1) / weight_sums.sum(),
        effective_rows=float(weight_sums.sum() ** 2 / (weight_sums * weights).sum()),
        mean_distance_uniform_km=_ratio(km[has_gps].sum(), sizes[has_gps].sum()),
        mean_distance_weighted_km=_ratio((km * weights)[has_gps].sum(), weight_sums[has_gps].sum()),
        clusters=clusters,
        labels=labels if has_labels else None,
    )


def _label_lines(labels: LabelSummary) -> list[str]:
    shares = [f"of rows {labels.share_of_rows:.1%}", f"of draws by distance alone {labels.share_by_distance:.1%}"]
    correlations = [f"by distance alone {labels.correlation_by_distance:+.2f}"]
    if labels.is_balanced:
        shares.append(f"with labels balanced {labels.share_of_draws:.1%}")
        correlations.append(f"with labels balanced {labels.correlation:+.2f}")
    lines = [f"share of Roadwork: {', '.join(shares)}"]
    if not math.isnan(labels.correlation_by_distance):
        lines.append(f"correlation of weight and label: {', '.join(correlations)}")
    if labels.unbalanced:
        lines.append(f"not balanced, because all rows have one label: {', '.join(labels.unbalanced)}")
    return lines


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count > 0 else math.nan


def _share_of_ones(amounts: np.ndarray) -> float:
    """Share of the label 1 in (C, 2) amounts by bracket and label."""
    return float(amounts[:, 1].sum() / amounts.sum())


def _correlation_with_label(sizes: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's correlation over the rows, from (C, 2) stratum sizes and weights; NaN if one does not vary."""
    prior = _share_of_ones(sizes)
    if np.ptp(weights[sizes > 0]) == 0 or prior in {0.0, 1.0}:
        return math.nan
    shares = sizes / sizes.sum()
    deviation = weights - (shares * weights).sum()
    covariance = (shares[:, 1] * deviation[:, 1]).sum()
    return float(covariance / np.sqrt((shares * deviation**2).sum() * prior * (1 - prior)))
