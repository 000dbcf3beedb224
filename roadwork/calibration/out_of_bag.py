"""What choosing a threshold gains on groups that had no part in the choice.

The best of many cut points is better than 0.5 on the rows that chose it, by chance alone. So the whole choice is
repeated on bootstrap samples of groups, and a group's decisions are those of the samples that it is not in, averaged
(the leave-one-out bootstrap: Efron and Tibshirani, Improvements on cross-validation: the .632+ bootstrap method, JASA
92, 1997). From these decisions, and those at 0.5, the gain and its interval by group follow as for any two detectors.

A bootstrap sample holds 63 % of the groups, and chooses worse than all of them do. So the gain errs low, and of its
interval the lower end is the one to rely on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.calibration.cuts import Cuts
from roadwork.calibration.priors import at_prior
from roadwork.evaluation.intervals import Interval, draw_counts, percentile_interval
from roadwork.evaluation.metrics import decide, mcc
from roadwork.progress import track

# Rows cut over all draws: some seconds.
_BUDGET = 10_000_000
_MIN_DRAWS = 200


@dataclass(frozen=True)
class OutOfBag:
    """A choice of threshold judged on groups that it has not seen.

    Attributes:
        at_half: (G, 4) counts tn, fp, fn, tp by group, decided at 0.5.
        chosen: (G, 4) the same at chosen thresholds, out of bag: means over draws.
        gain: MCC of the second less that of the first, at the prior.
        gain_interval: 95 %, by group.
        threshold_interval: 95 % of the thresholds chosen.
        draws: Bootstrap samples.
    """

    at_half: np.ndarray
    chosen: np.ndarray
    gain: float
    gain_interval: Interval
    threshold_interval: Interval
    draws: int


def judge_out_of_bag(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, *, prior: float | None, draws: int, seed: int
) -> OutOfBag:
    """The gain of choosing a threshold over 0.5, out of bag.

    Above 5,000 rows (at 2,000 draws) fewer draws are made, down to 200, to keep the time at seconds.

    Args:
        labels: (N,) 0 or 1, both present.
        probabilities: (N,) of Roadwork, strictly between 0 and 1.
        groups: (N,) names or numbers.
        prior: Share of Roadwork to choose for and judge at; None: the sample's.
        draws: Bootstrap samples.
        seed: Of the draws.
    """
    draws = min(draws, max(_MIN_DRAWS, _BUDGET // len(labels)))
    names, codes = np.unique(groups, return_inverse=True)
    thresholds, called = _choose_by_draw(labels, probabilities, codes, prior=prior, draws=draws, seed=seed)
    counts = np.stack(
        [_count_shares(labels, share, codes) for share in (decide(probabilities).astype(np.float64), called)], axis=1
    )  # (G, 2, 4)
    at_half, chosen = mcc(at_prior(counts.sum(axis=0), prior))
    drawn = draw_counts(counts.reshape(len(names), 8), draws=draws, seed=seed).reshape(draws, 2, 4)
    gains = np.diff(mcc(at_prior(drawn, prior)), axis=1)[:, 0]
    return OutOfBag(
        at_half=counts[:, 0],
        chosen=counts[:, 1],
        gain=float(chosen - at_half),
        gain_interval=percentile_interval(gains),
        threshold_interval=percentile_interval(thresholds),
        draws=draws,
    )


def _choose_by_draw(
    labels: np.ndarray, probabilities: np.ndarray, codes: np.ndarray, *, prior: float | None, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(draws,) thresholds, and (N,) in what share of the draws without its group a row was called Roadwork."""
    n_groups = codes.max() + 1
    rng = np.random.default_rng(seed)
    thresholds = np.empty(draws)
    called, unseen_in = np.zeros(len(labels)), np.zeros(n_groups)
    for draw in track(range(draws), draws, "Choosing thresholds"):
        times = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)
        rows = np.repeat(np.arange(len(labels)), times[codes])
        cuts = Cuts(labels[rows], probabilities[rows])
        thresholds[draw] = cuts.thresholds[cuts.best(prior)]
        unseen = times == 0
        unseen_in += unseen
        called += unseen[codes] & (probabilities >= thresholds[draw])
    return thresholds, called / np.maximum(unseen_in, 1)[codes]


def _count_shares(labels: np.ndarray, called: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(G, 4) tn, fp, fn, tp by group, of rows called Roadwork with a share (N,) from 0 to 1."""
    shares = [(1 - labels) * (1 - called), (1 - labels) * called, labels * (1 - called), labels * called]
    return np.stack([np.bincount(codes, share) for share in shares], axis=-1)
