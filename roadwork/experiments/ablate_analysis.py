"""The figures of an ablation: each arm's MCC, and by how much it lies above the base's.

An MCC is the mean over fits of the MCC of a fit's decisions at 0.5 on the fold that it has not seen. Intervals are by a
bootstrap over groups and fits at once (`paired_bootstrap`), the same draws for all arms.

Of few fits a bootstrap sees too little of the noise of training, so a claim also needs Student's t test over fits, and
p is the larger of the two. The overlap of the fits' training rows is in neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from roadwork.errors import DataError, WiringError
from roadwork.evaluation.intervals import effective_groups, percentile_interval
from roadwork.evaluation.metrics import decide, mcc
from roadwork.experiments.paired_bootstrap import bootstrap_mcc, count_paired

BETTER, WORSE, NOT_TOLD_APART = "better", "worse", "not told apart"
# A bootstrap redraws only what it has seen, so of a handful it says too much.
MIN_DIFFERING_GROUPS = 10
MIN_FITS = 5
_LEVEL = 0.05


def analyse(
    arms: Sequence[str],
    frames: Sequence[Sequence[pd.DataFrame]],
    facts: Sequence[Sequence[dict[str, Any]]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """Every figure of the report, ready for JSON.

    Args:
        arms: A names, the base first.
        frames: F fits of A predictions tables each; those of a fit hold the same rows.
        facts: likewise, what `fit.json` holds.
        draws: bootstrap samples.
        seed: of the bootstrap.

    Raises:
        DataError: the arms of a fit were judged on different rows.
        WiringError: they made different numbers of steps, or one predicted exactly what the base did.
    """
    rows = pd.concat([_check_paired(arms, of_fit) for of_fit in frames], ignore_index=True)
    _check_steps(arms, facts)
    labels, groups = rows["label"].to_numpy(), rows["group"].to_numpy()
    fits = np.repeat(np.arange(len(frames)), [len(of_fit[0]) for of_fit in frames])
    probabilities = np.stack(
        [np.concatenate([of_fit[arm]["probability"].to_numpy() for of_fit in frames]) for arm in range(len(arms))]
    )
    _check_not_the_same(arms, probabilities)
    counts = count_paired(labels, probabilities[None], groups, fits, len(frames))[:, :, 0][:, None]  # (G, 1, F, A, 4)
    by_fit = mcc(counts.sum(axis=0))[0]  # (F, A)
    drawn = bootstrap_mcc(counts, np.ones((1, 1)), draws=draws, seed=seed)[:, 0]  # (draws, A)
    _, codes = np.unique(groups, return_inverse=True)
    differing = [
        effective_groups(np.bincount(codes, decide(of_arm) != decide(probabilities[0]))) for of_arm in probabilities
    ]
    result: dict[str, dict[str, Any]] = {
        arm: {
            "mcc": _summarise(by_fit[:, number], drawn[:, number]),
            **{key: float(np.mean([of_fit[number][key] for of_fit in facts])) for key in facts[0][0]},
        }
        for number, arm in enumerate(arms)
    }
    for number, arm in enumerate(arms[1:], start=1):
        gaps, drawn_gaps = by_fit[:, number] - by_fit[:, 0], drawn[:, number] - drawn[:, 0]
        p = max(bootstrap_p(drawn_gaps), student_p(gaps))
        result[arm] |= {
            "difference": _summarise(gaps, drawn_gaps) | {"p": p},
            "differing_groups": differing[number],
        }
    adjusted = holm([result[arm]["difference"]["p"] for arm in arms[1:]])
    for arm, p in zip(arms[1:], adjusted, strict=True):
        difference = result[arm]["difference"]
        difference["p_holm"] = p
        result[arm]["verdict"] = judge(difference, result[arm]["differing_groups"], len(frames))
    return {
        "rows": int(rows["id"].nunique()),
        "groups": int(codes.max() + 1),
        "fits": len(frames),
        "comparisons": len(arms) - 1,
        "arms": result,
    }


def judge(difference: dict[str, Any], differing_groups: float, n_fits: int) -> str:
    """What may be said of a difference: of several, only what Holm's correction leaves is called better or worse."""
    if n_fits < MIN_FITS:
        return f"{NOT_TOLD_APART} (fewer than {MIN_FITS} fits)"
    if differing_groups < MIN_DIFFERING_GROUPS:
        return f"{NOT_TOLD_APART} (fewer than {MIN_DIFFERING_GROUPS} groups differ)"
    if difference["low"] <= 0 <= difference["high"]:
        return NOT_TOLD_APART
    if difference["p"] >= _LEVEL:
        return f"{NOT_TOLD_APART} (fits disagree)"
    if difference["p_holm"] >= _LEVEL:
        return f"{NOT_TOLD_APART} (after Holm)"
    return BETTER if difference["low"] > 0 else WORSE


def bootstrap_p(drawn: np.ndarray) -> float:
    """Two-sided p of no difference: twice the share of draws (D,) on the rarer side of 0, never 0 itself."""
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    return min(1.0, 2 * (float(rarer) + 1) / (len(drawn) + 1))


def student_p(gaps: np.ndarray) -> float:
    """Two-sided p of Student's t test that differences (F,) have the mean 0; 1 where there is one alone."""
    if len(gaps) < 2 or not gaps.any():
        return 1.0
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    return float(2 * stats.t.sf(abs(gaps.mean()) / error, len(gaps) - 1)) if error else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order given."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    adjusted = np.empty(len(p_values))
    adjusted[order] = raised
    return [float(p) for p in adjusted]


def _check_paired(arms: Sequence[str], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    for arm, frame in zip(arms, frames, strict=True):
        if not frame[["id", "label", "group"]].equals(frames[0][["id", "label", "group"]]):
            raise DataError(
                f"{arm} was judged on other rows than {arms[0]}, so they cannot be compared. Pictures or labels have "
                "changed between the fits: restore them, and start a new ablation."
            )
    return frames[0]


def _check_steps(arms: Sequence[str], facts: Sequence[Sequence[dict[str, Any]]]) -> None:
    for of_fit in facts:
        steps = dict(zip(arms, (int(fact["steps"]) for fact in of_fit), strict=True))
        if len(set(steps.values())) > 1:
            raise WiringError(f"The arms made different numbers of optimizer steps, {steps}: nothing can be compared.")


def _check_not_the_same(arms: Sequence[str], probabilities: np.ndarray) -> None:
    """Networks that begin alike and see the same batches end alike, so an arm that changes nothing shows itself."""
    for arm, of_arm in zip(arms[1:], probabilities[1:], strict=True):
        if np.array_equal(of_arm, probabilities[0]):
            raise WiringError(f"{arm} predicted exactly what {arms[0]} did: what the arm sets changed nothing.")


def _summarise(by_fit: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    low, high = percentile_interval(drawn)
    return {"value": float(by_fit.mean()), "low": low, "high": high, "by_fit": by_fit.tolist()}
