"""MCCs of several models on the same rows, and intervals of their differences.

Rows of one group fail together, so groups are drawn with replacement, the same ones for every model (Field and Welsh,
Bootstrapping clustered data, JRSS B 69, 2007). Trainings differ by their seed, too: the seeds are drawn with
replacement at the same time, again the same ones for every model (the pigeonhole bootstrap: Owen, The pigeonhole
bootstrap, Annals of Applied Statistics 1, 2007, which errs on the wide side).
"""

from __future__ import annotations

import numpy as np

from roadwork.evaluation.metrics import decide, mcc

# Numbers drawn at a time: 80 MB.
_CHUNK = 10_000_000


def count_paired(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, strata: np.ndarray, n_strata: int
) -> np.ndarray:
    """(G, C, S, A, 4) counts tn, fp, fn, tp of each group, by stratum.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (S, A, N) of Roadwork, of S seeds and A models.
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


def bootstrap_mcc(counts: np.ndarray, weights: np.ndarray, *, draws: int, seed: int) -> np.ndarray:
    """(draws, K, A) MCC of each model, the mean over the seeds drawn, by each of K weightings of the strata.

    Args:
        counts: (G, C, S, A, 4) by group, stratum, seed and model.
        weights: (K, C) of a row of each stratum.
        draws: bootstrap samples.
        seed: of the draws.
    """
    n_groups, n_seeds = counts.shape[0], counts.shape[2]
    rng = np.random.default_rng(seed)
    flat = counts.reshape(n_groups, -1).astype(np.float64)
    means = []
    for start in range(0, draws, max(1, _CHUNK // n_groups)):
        n_drawn = min(max(1, _CHUNK // n_groups), draws - start)
        chosen = rng.integers(n_groups, size=(n_drawn, n_groups)) + n_groups * np.arange(n_drawn)[:, None]
        times = np.bincount(chosen.ravel(), minlength=n_drawn * n_groups).reshape(n_drawn, n_groups)
        values = mcc(weigh_counts((times @ flat).reshape(n_drawn, *counts.shape[1:]), weights))  # (n_drawn, K, S, A)
        shares = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n_drawn) / n_seeds
        means.append(np.einsum("dksa,ds->dka", values, shares))
    return np.concatenate(means)
