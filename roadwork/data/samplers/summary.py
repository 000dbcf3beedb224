"""What a weighted sampler does to a dataset, in numbers and in words."""

from dataclasses import dataclass

import numpy as np

from roadwork.data.samplers.brackets import Brackets
from roadwork.data.samplers.clusters import Clusters


@dataclass(frozen=True)
class SamplerSummary:
    """How weighting by distance shifts what is trained on.

    Attributes:
        n_rows: rows of the dataset.
        n_missing: rows without GPS.
        bracket_names: (B + 1) names, the last for rows without GPS.
        bracket_weights: (B + 1,) weight of each row of the bracket.
        row_shares: (B + 1,) share of the rows in each bracket.
        draw_shares: (B + 1,) expected share of the draws from each bracket.
        effective_rows: Kish's effective sample size, (sum w)^2 / sum w^2; N where all weights are equal.
        mean_distance_uniform_km: mean distance to the nearest deployment centre of rows drawn uniformly.
        mean_distance_weighted_km: the same, of rows drawn by weight; both are NaN where no such row has GPS.
        clusters: of the deployment.
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

    def __str__(self) -> str:
        lines = [
            f"GPS sampling: {self.n_rows} rows, {self.n_missing} without GPS",
            f"mean distance to the nearest centre, uniform draws:  {self.mean_distance_uniform_km:.0f} km",
            f"mean distance to the nearest centre, weighted draws: {self.mean_distance_weighted_km:.0f} km",
            f"effective sample size: {self.effective_rows:.0f} rows ({self.effective_rows / self.n_rows:.0%})",
            f"{'distance':<14}{'weight':>8}{'of rows':>10}{'of draws':>10}",
        ]
        brackets = zip(self.bracket_names, self.bracket_weights, self.row_shares, self.draw_shares, strict=True)
        lines += [f"{name:<14}{weight:>8g}{rows:>10.1%}{draws:>10.1%}" for name, weight, rows, draws in brackets]
        lines.append(f"{'centre (lat, lon)':<22}{'points':>8}{'radius km':>11}")
        clusters = zip(self.clusters.centers_deg, self.clusters.sizes, self.clusters.radius_km, strict=True)
        lines += [f"{f'{lat:.3f}, {lon:.3f}':<22}{size:>8}{radius:>11.1f}" for (lat, lon), size, radius in clusters]
        return "\n".join(lines)


def summarize(
    distances_km: np.ndarray, brackets: Brackets, missing_weight: float, clusters: Clusters
) -> SamplerSummary:
    """The summary of N rows by their distances (N,) in kilometres, NaN where a row has no GPS."""
    bracket_weights = np.append(brackets.weights, missing_weight)
    index = brackets.index_of(distances_km)
    counts = np.bincount(index, minlength=len(bracket_weights))
    weight_sums = counts * bracket_weights
    has_gps = ~np.isnan(distances_km)
    return SamplerSummary(
        n_rows=len(distances_km),
        n_missing=int(counts[-1]),
        bracket_names=(*brackets.names, "without GPS"),
        bracket_weights=bracket_weights,
        row_shares=counts / len(distances_km),
        draw_shares=weight_sums / weight_sums.sum(),
        effective_rows=float(weight_sums.sum() ** 2 / (weight_sums @ bracket_weights)),
        mean_distance_uniform_km=_mean(distances_km[has_gps], np.ones(has_gps.sum())),
        mean_distance_weighted_km=_mean(distances_km[has_gps], bracket_weights[index[has_gps]]),
        clusters=clusters,
    )


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float(values @ weights / total) if total > 0 else float("nan")
