"""95 % intervals and paired comparisons, resampled by group.

Rows of a group are not independent, so the group is the unit of sampling. The number of failed groups decides between
two methods:

**Group bootstrap**: groups are drawn with replacement, and the interval runs from the 2.5th to the 97.5th percentile
of the metric (Field and Welsh, Bootstrapping clustered data, JRSS B 69, 2007).

**Clopper-Pearson by group**: a bootstrap can only redraw observed failures. Without any, its interval is [1, 1], which
proves nothing. So with fewer than `MIN_FAILED_GROUPS` failed groups, the exact binomial interval bounds the row error
rate (Clopper and Pearson, Biometrika 26, 1934). The number of trials is the effective number of groups, and the share
of failures is the share of wrong rows (Korn and Graubard, Survey Methodology 24, 1998). This assumes that the rows of a
group fail together, the strongest possible dependence, and gives the widest interval. (Counting every group with an
error as failed would bound the rate of failed groups, and its lower end can lie above the row error rate.) The interval
of a metric runs from its lowest to its highest value at these error rates and the sample's share of Roadwork, for any
division of the errors between the two classes. All intervals follow from one bound, so they hold jointly without a
Bonferroni correction. Two bounds, one per class, would be wider.

**Jackknife by group**, for 6 to 29 groups on another dataset: the error of a metric follows from leaving out each group
in turn (Efron and Stein, The jackknife estimate of variance, Annals of Statistics 9, 1981). The interval is Student's t
on the logit scale, so it stays in the metric's range. The degrees of freedom are the effective number of groups of the
class with fewer, less one. It needs errors in at least two effective groups of each class that the metric depends on.

**Comparisons of models**: the same drawn groups are used for every model. Training runs also differ by their seed, so
the seeds are drawn with replacement at the same time, again the same ones for every model (Owen, The pigeonhole
bootstrap, Annals of Applied Statistics 1, 2007; it is slightly conservative).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import optimize, special, stats

from roadwork.metrics.classification import COUNT_METRICS, RANKING_METRICS, CountMetric, Ranking, mcc
from roadwork.metrics.decision import decide

BOOTSTRAP = "group bootstrap"
CLOPPER_PEARSON = "Clopper-Pearson by group"
JACKKNIFE = "jackknife by group"
_TAIL = 0.025

# With few failed groups, the coverage of a bootstrap falls to 85 % in simulations. With this switch it is 93.5 to 100 %
# in 45 settings of 3,000 samples each; tests/evaluation/test_intervals.py repeats some.
MIN_FAILED_GROUPS = 10

# With fewer groups the jackknife, and with more the bootstrap, is not checked; docs/EXPERIMENTS.md has the simulation.
FEW_GROUPS = (6, 29)
_MIN_JACKKNIFE_FAILED_GROUPS = 2

# Rows times draws of the ranking metrics: takes a few seconds.
_RANKING_BUDGET = 50_000_000
_MIN_RANKING_DRAWS = 200

# Numbers drawn at a time: uses 80 MB.
_CHUNK = 10_000_000


Interval = tuple[float, float]


def count_by_group(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """(G, 4) int64 counts tn, fp, fn, tp of each group, from labels, probabilities and groups (N,)."""
    _, codes = np.unique(groups, return_inverse=True)
    cells = 4 * codes + 2 * labels + decide(probabilities, threshold)
    return np.bincount(cells, minlength=4 * (codes.max() + 1)).reshape(-1, 4)


def count_intervals(
    counts: np.ndarray, *, draws: int, seed: int, metrics: Mapping[str, CountMetric] = COUNT_METRICS
) -> tuple[str, dict[str, Interval]]:
    """The method, and the interval of every count metric by name.

    Args:
        counts: (G, 4) tn, fp, fn, tp by group, with at least one row.
        draws: Number of bootstrap samples.
        seed: Seed of the draws.
        metrics: Count metrics by name. Each rises, or falls, with the error rate.
    """
    if effective_groups(counts[:, 1] + counts[:, 2]) >= MIN_FAILED_GROUPS:
        drawn = draw_counts(counts, draws=draws, seed=seed)
        return BOOTSTRAP, {name: percentile_interval(metric(drawn)) for name, metric in metrics.items()}
    fewest, most = error_rate_interval(counts)
    share = roadwork_share(counts)

    def bounds(metric: CountMetric) -> Interval:
        low = np.fmin(metric_bound(metric, fewest, share, np.min), metric_bound(metric, most, share, np.min))
        high = np.fmax(metric_bound(metric, fewest, share, np.max), metric_bound(metric, most, share, np.max))
        return float(low), float(high)

    return CLOPPER_PEARSON, {name: bounds(metric) for name, metric in metrics.items()}


def draw_counts(counts: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """(draws, 4) confusion counts, each the sum of G groups drawn with replacement from (G, 4) counts by group.

    Groups with equal counts are one *kind*, and the number of draws of each kind is multinomial. This is the same
    distribution as drawing groups one by one, but takes only milliseconds for 100,000 rows.
    """
    kinds, occurrences = np.unique(counts, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn: np.ndarray = rng.multinomial(len(counts), occurrences / len(counts), size=draws) @ kinds
    return drawn


def percentile_interval(values: np.ndarray) -> Interval:
    """2.5th and 97.5th percentile of the draws in which the metric is defined; NaN if there are none."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [100 * _TAIL, 100 * (1 - _TAIL)])
    return float(low), float(high)


def ranking_intervals(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, draws: int, seed: int
) -> dict[str, Interval]:
    """Group bootstrap intervals of AUROC and AUPRC by name.

    Above 25,000 rows (at 2,000 draws) the number of draws falls, down to 200, so that it takes only seconds. The ends
    of the interval then depend slightly on the seed.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork.
        groups: (N,) names or numbers.
        draws: Number of bootstrap samples.
        seed: Seed of the draws.
    """
    draws = min(draws, max(_MIN_RANKING_DRAWS, _RANKING_BUDGET // len(labels)))
    names, codes = np.unique(groups, return_inverse=True)
    ranking = Ranking(labels, probabilities)
    rng = np.random.default_rng(seed)
    scores = np.empty((draws, len(RANKING_METRICS)))
    for draw in range(draws):
        times_drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        scores[draw] = ranking.score(times_drawn[codes])
    return {name: percentile_interval(scores[:, column]) for column, name in enumerate(RANKING_METRICS)}


def jackknife_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    threshold: float,
    metrics: Mapping[str, CountMetric],
) -> dict[str, Interval]:
    """Jackknife intervals, by name, of the count and ranking metrics that have errors in enough groups.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) of Roadwork.
        groups: (N,) names or numbers.
        threshold: a probability that reaches it is Roadwork.
        metrics: count metrics by name; all except recall and false-alarm rate depend on both classes.
    """
    counts = count_by_group(labels, probabilities, groups, threshold)
    without = np.concatenate([counts.sum(axis=0)[None], counts.sum(axis=0) - counts])  # of none, then of each group
    values = {name: metric(without) for name, metric in metrics.items()}
    _, codes = np.unique(groups, return_inverse=True)
    ranking = Ranking(labels, probabilities)
    scores = [ranking.score((codes != group).astype(np.float64)) for group in range(-1, len(counts))]
    values |= dict(zip(RANKING_METRICS, np.array(scores).T, strict=True))
    failed = {0: effective_groups(counts[:, 1]), 1: effective_groups(counts[:, 2])}
    of_class = {0: effective_groups(counts[:, :2].sum(axis=1)), 1: effective_groups(counts[:, 2:].sum(axis=1))}
    found = {}
    for name, (value, *left) in values.items():
        classes = {"recall": (1,), "false_alarm_rate": (0,)}.get(name, (0, 1))
        is_defined = not np.isnan([value, *left]).any()
        if is_defined and min(failed[label] for label in classes) >= _MIN_JACKKNIFE_FAILED_GROUPS:
            freedom = min(of_class[label] for label in classes) - 1
            found[name] = _logit_t_interval(value, np.array(left), freedom, -1.0 if name == "mcc" else 0.0)
    return found


def _logit_t_interval(value: float, left: np.ndarray, freedom: float, lowest: float) -> Interval:
    """The interval of a metric from `lowest` to 1, from its values (G,) with each group left out."""
    scale = 1 - lowest
    centre, *shifted = special.logit(np.clip((np.append(value, left) - lowest) / scale, 1e-6, 1 - 1e-6))
    error = np.sqrt((len(left) - 1) / len(left) * np.sum((np.array(shifted) - centre) ** 2))
    half = stats.t.ppf(1 - _TAIL, max(freedom, 1.0)) * error
    low, high = lowest + scale * special.expit(np.array([centre - half, centre + half]))
    return float(low), float(high)


def effective_groups(sizes: np.ndarray) -> float:
    """The effective number of groups of sizes (G,): their sum squared over the sum of their squares (Kish, 1965).

    From rows by group it counts groups. From errors by group it counts failed groups, 0 without an error.
    """
    squares = float((sizes.astype(np.float64) ** 2).sum())
    return float(sizes.sum()) ** 2 / squares if squares else 0.0


def error_rate_interval(counts: np.ndarray) -> Interval:
    """Clopper-Pearson interval of the row error rate, from (G, 4) counts by group; see the module's docstring."""
    trials = effective_groups(counts.sum(axis=1))
    failures = trials * (counts[:, 1] + counts[:, 2]).sum() / counts.sum()
    low = stats.beta.ppf(_TAIL, failures, trials - failures + 1) if failures > 0 else 0.0
    high = stats.beta.ppf(1 - _TAIL, failures + 1, trials - failures) if failures < trials else 1.0
    return float(low), float(high)


def roadwork_share(counts: np.ndarray) -> float:
    """Share of rows whose label is Roadwork, from (..., 4) counts."""
    return float(counts[..., 2:].sum() / counts.sum())


def metric_bound(
    metric: Callable[[np.ndarray], np.ndarray],
    error_rate: float,
    share: float,
    pick: Callable[[np.ndarray], np.floating],
) -> float:
    """The lowest or highest metric at an error rate, over all divisions of the errors between the two classes.

    At a fixed share of Roadwork, MCC and the other count metrics rise with the recall of either class. So a smaller
    error rate cannot give a lower metric, nor a larger error rate a higher one.

    Args:
        metric: Metric of shares tn, fp, fn, tp (..., 4).
        error_rate: Share of rows decided wrongly.
        share: Share of rows whose label is Roadwork.
        pick: np.min or np.max.
    """
    fp = np.linspace(max(0.0, error_rate - share), min(1 - share, error_rate), 513)
    fn = error_rate - fp
    # Rounding errors can be below 0, where the square root is undefined.
    shares = np.maximum(np.stack([1 - share - fp, fp, fn, share - fn], axis=-1), 0.0)
    values = metric(shares)
    return float(pick(values[~np.isnan(values)])) if not np.isnan(values).all() else float("nan")


def groups_to_show(target_mcc: float, share: float) -> float:
    """Number of equal-sized, error-free groups that raise the lower MCC bound to a target; inf at a target of 1."""
    if target_mcc >= 1:
        return float("inf")
    # If the errors cover the whole smaller class, the lowest MCC is at most 0.
    rate = optimize.brentq(lambda rate: metric_bound(mcc, rate, share, np.min) - target_mcc, 0.0, min(share, 1 - share))
    return float(np.log(_TAIL) / np.log1p(-rate))


def count_paired(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, strata: np.ndarray, n_strata: int
) -> np.ndarray:
    """(G, C, S, A, 4) counts tn, fp, fn, tp of each group, by stratum.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (S, A, N) of Roadwork, for S seeds and A models.
        groups: (N,) names or numbers.
        strata: (N,) int64 numbers 0 to C - 1.
        n_strata: C.
    """
    _, codes = np.unique(groups, return_inverse=True)
    n_groups = codes.max() + 1
    cells = (codes * n_strata + strata) * 4 + 2 * labels
    counts = [
        [np.bincount(cells + decide(rows), minlength=n_groups * n_strata * 4) for rows in models]
        for models in probabilities
    ]
    return np.moveaxis(np.array(counts).reshape(*probabilities.shape[:2], n_groups, n_strata, 4), (2, 3), (0, 1))


def weigh_counts(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(..., K, S, A, 4) counts (..., C, S, A, 4) summed over strata by each of K weightings (K, C)."""
    weighed: np.ndarray = np.einsum("kc,...csaf->...ksaf", weights, counts)
    return weighed


def bootstrap_mcc(
    counts: np.ndarray, weights: np.ndarray, *, draws: int, seed: int, metric: CountMetric = mcc
) -> np.ndarray:
    """(draws, K, A) MCC of each model, averaged over the drawn seeds, for each of K weightings of the strata.

    Args:
        counts: (G, C, S, A, 4) by group, stratum, seed and model.
        weights: (K, C) weight of a row in each stratum.
        draws: number of bootstrap samples.
        seed: seed of the draws.
        metric: of counts (..., 4), instead of MCC.
    """
    n_groups, n_seeds = counts.shape[0], counts.shape[2]
    rng = np.random.default_rng(seed)
    flat = counts.reshape(n_groups, -1).astype(np.float64)
    means = []
    for start in range(0, draws, max(1, _CHUNK // n_groups)):
        n_drawn = min(max(1, _CHUNK // n_groups), draws - start)
        chosen = rng.integers(n_groups, size=(n_drawn, n_groups)) + n_groups * np.arange(n_drawn)[:, None]
        times = np.bincount(chosen.ravel(), minlength=n_drawn * n_groups).reshape(n_drawn, n_groups)
        values = metric(weigh_counts((times @ flat).reshape(n_drawn, *counts.shape[1:]), weights))  # (n_drawn, K, S, A)
        shares = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_drawn) / n_seeds
        means.append(np.einsum("dksa,ds->dka", values, shares))
    return np.concatenate(means)
