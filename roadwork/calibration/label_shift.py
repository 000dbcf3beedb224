"""Estimates the share of Roadwork in photos without labels, where only this share differs from `val_calib`.

Label shift: the scores of None photos and those of Roadwork photos are distributed as in `val_calib`, and only their
mixture differs. Then the share follows from the scores alone, by two methods:

- **EM** (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002) maximises the likelihood of the calibrated
    probabilities. They are calibrated by slope and bias, which EM needs (Alexandari, Kundaje and Shrikumar, ICML 2020).
- **BBSE** (Lipton, Wang and Smola, ICML 2018) solves the confusion matrix of `val_calib` at the threshold.

Each bootstrap draw resamples the groups of photos, and draws both distributions of `val_calib` from their Dirichlet
posterior. Rows of a group are not independent, so counts are divided by their design effect (Rao and Scott, The
analysis of categorical data from complex sample surveys, JASA 76, 1981).

The assumption is tested: no mixture may fit the scores (Kolmogorov-Smirnov, parametric bootstrap), or the two
intervals may not overlap. A shift that moves both distributions towards each other can pass both tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

BINS_PER_CLASS = 16
MIN_GROUPS = 20
LEVEL = 0.05
WIDEST = 0.5
_DRAWS = 500
_TAIL = 2.5
_GRID = np.linspace(0, 1, 201)
_NEWTON_STEPS, _RIDGE = 30, 1e-6


@dataclass(frozen=True)
class ScoreHistogram:
    """The scores of `val_calib` by label, in bins of log-odds of the calibrated probability.

    Attributes:
        edges: (B - 1,) ascending.
        centers: (B,) mean log-odds in each bin; its middle where it is empty.
        none, roadwork: (B,) rows of each label.
        design_effects: of None and of Roadwork, at least 1: how many rows count as one.
        above: number of the first bin above the decision threshold, which is an edge.
    """

    edges: tuple[float, ...]
    centers: tuple[float, ...]
    none: tuple[int, ...]
    roadwork: tuple[int, ...]
    design_effects: tuple[float, float]
    above: int

    @classmethod
    def fit(cls, labels: np.ndarray, log_odds: np.ndarray, groups: np.ndarray, threshold: float) -> Self:
        """The histogram of rows.

        Args:
            labels: (N,) 0 or 1, both present.
            log_odds: (N,) of the calibrated probabilities.
            groups: (N,) names or numbers.
            threshold: of the log-odds.
        """
        shares = (np.arange(BINS_PER_CLASS) + 0.5) / BINS_PER_CLASS
        inner = [np.quantile(log_odds[labels == label], shares) for label in (0, 1)]
        edges = np.unique(np.concatenate([*inner, [threshold]]))
        counts = [count_bins(log_odds[labels == label], groups[labels == label], edges) for label in (0, 1)]
        none, roadwork = (tuple(own.sum(axis=0).tolist()) for own in counts)
        bins, n_bins = np.searchsorted(edges, log_odds, side="right"), len(edges) + 1
        rows = np.bincount(bins, minlength=n_bins)
        middles = (np.append(edges[0], edges) + np.append(edges, edges[-1])) / 2
        means = np.where(rows > 0, np.bincount(bins, log_odds, minlength=n_bins) / np.maximum(rows, 1), middles)
        effects = (design_effect(counts[0]), design_effect(counts[1]))
        above = int(np.searchsorted(edges, threshold)) + 1
        return cls(tuple(edges.tolist()), tuple(means.tolist()), none, roadwork, effects, above)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The histogram in the JSON of `asdict`; raises KeyError or TypeError where it is damaged."""
        arrays = {name: tuple(content[name]) for name in ("edges", "centers", "none", "roadwork", "design_effects")}
        return cls(**arrays, above=int(content["above"]))

    @property
    def prior(self) -> float:
        """The share of Roadwork in `val_calib`."""
        return sum(self.roadwork) / (sum(self.none) + sum(self.roadwork))

    def posterior(self) -> list[np.ndarray]:
        """Dirichlet parameters (B,) of the distributions of None and Roadwork."""
        counts = (np.array(self.none), np.array(self.roadwork))
        return [own / effect + 1 / len(own) for own, effect in zip(counts, self.design_effects, strict=True)]

    def rates(self, threshold: float) -> tuple[float, float]:
        """Recall and false-alarm rate in `val_calib` at a threshold of the log-odds, interpolated in its bin."""
        above = (1 - np.cumsum(own)[:-1] / sum(own) for own in (self.roadwork, self.none))
        found, alarms = (float(np.interp(threshold, self.edges, rate)) for rate in above)
        return found, alarms


def count_bins(log_odds: np.ndarray, groups: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """(G, B) rows of each group by bin, from log-odds and groups (N,)."""
    names, codes = np.unique(groups, return_inverse=True)
    bins = np.searchsorted(edges, log_odds, side="right")
    n_bins = len(edges) + 1
    return np.bincount(codes * n_bins + bins, minlength=len(names) * n_bins).reshape(-1, n_bins)


def design_effect(counts: np.ndarray) -> float:
    """The variance of the cumulative shares between groups (G, B), relative to independent rows; at least 1.

    It is the mean over all cuts between bins: estimates and test depend on cumulative shares.
    """
    n_groups, below, sizes = len(counts), np.cumsum(counts, axis=1)[:, :-1], counts.sum(axis=1, keepdims=True)
    n = sizes.sum()
    if n_groups < 2:
        return float(n)
    shares = below.sum(axis=0) / n
    between = n_groups / (n_groups - 1) * ((below - shares * sizes) ** 2).sum()
    independent = n * (shares * (1 - shares)).sum()
    return float(max(1.0, between / independent)) if independent > 0 else 1.0


@dataclass(frozen=True)
class PriorEstimate:
    """The estimated share of Roadwork.

    Attributes:
        n, groups: photos, and groups of them that are resampled.
        prior, low, high: by EM, with a 95 % interval.
        bbse, bbse_low, bbse_high: the same by BBSE.
        distance: largest difference of the cumulative scores from the best mixture.
        p_value: of this distance, if only the share differs.
        reasons: why the estimate must not be used; empty if it may.
    """

    n: int
    groups: int
    prior: float
    low: float
    high: float
    bbse: float
    bbse_low: float
    bbse_high: float
    distance: float
    p_value: float
    reasons: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        return asdict(self)


def estimate_prior(scores: ScoreHistogram, log_odds: np.ndarray, groups: np.ndarray, seed: int = 0) -> PriorEstimate:
    """The share of Roadwork among photos, and reasons why it must not be used.

    Args:
        scores: of `val_calib`.
        log_odds: (N,) of the photos' calibrated probabilities, N at least 1.
        groups: (N,) of the photos.
        seed: of the draws.
    """
    from roadwork.metrics.intervals import draw_counts  # noqa: PLC0415 -- scipy.stats is slow to import

    counts = count_bins(log_odds, groups, np.array(scores.edges))
    rng = np.random.default_rng(seed)
    posterior = scores.posterior()
    means = [own / own.sum() for own in posterior]
    none, roadwork = (np.stack([mean, *rng.dirichlet(own, _DRAWS)]) for own, mean in zip(posterior, means, strict=True))
    drawn = np.stack([counts.sum(axis=0), *draw_counts(counts, draws=_DRAWS, seed=seed)])
    # The first row is the estimate, the others are draws.
    by_em = _maximise(drawn, scores, none, roadwork)
    by_bbse = _solve(drawn, none, roadwork, scores.above)
    low, high = np.percentile(by_em[1:], [_TAIL, 100 - _TAIL]).tolist()
    bbse_low, bbse_high = np.percentile(by_bbse[1:], [_TAIL, 100 - _TAIL]).tolist()
    distance, p_value = _test_mixture(counts, scores, means, rng)
    reasons = []
    if len(counts) < MIN_GROUPS:
        reasons.append(
            f"{len(counts)} groups of photos (places, or consecutive photos) are too few; {MIN_GROUPS} are needed."
        )
    if p_value < LEVEL:
        reasons.append(
            f"the scores are no mixture of val_calib's None and Roadwork scores (p = {p_value:.2g}), so more than the "
            "share differs."
        )
    if high - low > WIDEST:
        reasons.append(
            f"the 95 % interval of the share is {low:.2g} to {high:.2g}: there are too few photos, or the detector "
            "separates None and Roadwork too little."
        )
    if max(low, bbse_low) > min(high, bbse_high):
        reasons.append(
            f"EM ({low:.3g} to {high:.3g}) and BBSE ({bbse_low:.3g} to {bbse_high:.3g}) disagree, so more than the "
            "share differs."
        )
    return PriorEstimate(
        n=len(log_odds),
        groups=len(counts),
        prior=float(by_em[0]),
        low=low,
        high=high,
        bbse=float(by_bbse[0]),
        bbse_low=bbse_low,
        bbse_high=bbse_high,
        distance=distance,
        p_value=p_value,
        reasons=tuple(reasons),
    )


def fit_share(counts: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """(D,) share of Roadwork with the highest likelihood: the fixed point of EM, by bisection of its slope.

    Args:
        counts: (D, B) photos by bin.
        ratios: (D, B) likelihood of Roadwork relative to None in each bin.
    """
    low, high = np.zeros((len(counts), 1)), np.ones((len(counts), 1))
    for _ in range(40):
        middle = (low + high) / 2
        rises = (counts * (ratios - 1) / (1 + middle * (ratios - 1))).sum(axis=1, keepdims=True) > 0
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    share: np.ndarray = np.round((low + high) / 2, 9)[:, 0]
    return share


def _maximise(counts: np.ndarray, scores: ScoreHistogram, none: np.ndarray, roadwork: np.ndarray) -> np.ndarray:
    """(D,) share of Roadwork by EM, from photos and the distributions of None and Roadwork, (D, B) each."""
    ratios = np.exp(np.clip(_log_ratios(np.array(scores.centers), none, roadwork), -30, 30))
    return fit_share(counts, ratios)


def _log_ratios(centers: np.ndarray, none: np.ndarray, roadwork: np.ndarray) -> np.ndarray:
    """(D, B) log likelihood ratio in each bin: logistic regression on the log-odds, with both labels weighted alike."""
    design = np.stack([(centers - centers.mean()) / max(centers.std(), 1e-9), np.ones_like(centers)], axis=1)  # (B, 2)
    parameters = np.tile([1.0, 0.0], (len(none), 1))
    for _ in range(_NEWTON_STEPS):
        predicted = 1 / (1 + np.exp(-np.clip(parameters @ design.T, -30, 30)))
        gradient = (roadwork - (none + roadwork) * predicted) @ design
        weights = (none + roadwork) * predicted * (1 - predicted)
        hessian = np.einsum("db,bi,bj->dij", weights, design, design) + _RIDGE * np.eye(2)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        parameters += step / np.maximum(1, np.abs(step).max(axis=1, keepdims=True))
    ratios: np.ndarray = parameters @ design.T
    return ratios


def _solve(counts: np.ndarray, none: np.ndarray, roadwork: np.ndarray, above: int) -> np.ndarray:
    """(D,) share of Roadwork by BBSE, for shapes as in `fit_mixture`; `above` is as in the histogram."""
    called, alarms, found = (values[:, above:].sum(axis=1) / values.sum(axis=1) for values in (counts, none, roadwork))
    share: np.ndarray = np.clip((called - alarms) / np.maximum(found - alarms, 1e-3), 0, 1)
    return share


def _test_mixture(
    counts: np.ndarray, scores: ScoreHistogram, means: list[np.ndarray], rng: np.random.Generator
) -> tuple[float, float]:
    """The distance of the photos (G, B) from the best mixture, and its p-value by parametric bootstrap."""
    total = counts.sum(axis=0)
    distance, share = _distance(total[None], *(own[None] for own in means))
    sizes = [
        sum(own) / effect for own, effect in zip((scores.none, scores.roadwork), scores.design_effects, strict=True)
    ]
    size = total.sum() / design_effect(counts)
    mixture = (1 - share[0]) * means[0] + share[0] * means[1]
    drawn = [
        rng.multinomial(max(1, round(n)), own, _DRAWS) for n, own in zip((size, *sizes), (mixture, *means), strict=True)
    ]
    null, _ = _distance(drawn[0], drawn[1], drawn[2])
    return float(distance[0]), float((1 + (null >= distance[0]).sum()) / (_DRAWS + 1))


def _distance(counts: np.ndarray, none: np.ndarray, roadwork: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D,) smallest Kolmogorov-Smirnov distance over all mixtures, and (D,) its share of Roadwork."""
    photos, first, second = (
        np.cumsum(values, axis=1) / values.sum(axis=1, keepdims=True) for values in (counts, none, roadwork)
    )
    mixtures = first[:, None] + _GRID[:, None] * (second - first)[:, None]  # (D, 201, B)
    distances = np.abs(photos[:, None] - mixtures).max(axis=2)
    best = distances.argmin(axis=1)
    return distances[np.arange(len(best)), best], _GRID[best]
