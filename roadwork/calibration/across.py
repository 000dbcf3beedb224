"""Fits temperature and threshold for an unseen place, on predictions of regions that the network has not seen.

`val_calib` has the regions of training, so its threshold fits them. Here each region is predicted by a network that was
trained without it, and the threshold is fitted on these predictions. Each figure of a region uses a threshold fitted
on the other regions.

All regions count alike, because the next place is one more region: the rows of a region weigh at most as much as
`FULL_WEIGHT` rows of each label. The threshold has the highest MCC at the prior of the calibration. It replaces the one
of `val_calib` only if its gain in unseen regions is significant: the 95 % jackknife interval over regions (with
Student's t, since regions are few) lies above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.special import logit

from roadwork.calibration.data import Rows
from roadwork.calibration.figures import at_prior
from roadwork.calibration.temperature import fit_temperature, has_optimum
from roadwork.calibration.threshold import Cuts
from roadwork.core.errors import ConfigError
from roadwork.data.table import most_frequent
from roadwork.metrics.classification import balanced_accuracy, false_alarm_rate, mcc, recall
from roadwork.metrics.decision import MARGIN_LIMIT, probability

MIN_REGIONS = 3
FULL_WEIGHT = 20
CUTS = ("at_half", "val_calib", "across")
_RATES = {"balanced_accuracy": balanced_accuracy, "recall": recall, "false_alarm_rate": false_alarm_rate}


@dataclass(frozen=True)
class AcrossRows:
    """Out-of-region predictions.

    Attributes:
        column: the dataset's column with the regions, or `h3`.
        rows: their groups are the regions; empty where the region is unknown.
    """

    column: str
    rows: Rows


def check_regions(column: str, labels: np.ndarray, regions: np.ndarray) -> None:
    """Checks that thresholds can be fitted without any one region.

    Args:
        column: as the user named it.
        labels: (N,) 0 or 1.
        regions: (N,) str, empty where unknown.

    Raises:
        ConfigError: there are fewer than `MIN_REGIONS` regions, or a label is in one region only.
    """
    known = regions != ""
    n_regions = len(np.unique(regions[known]))
    with_label = [len(np.unique(regions[known & (labels == label)])) for label in (0, 1)]
    if n_regions < MIN_REGIONS or min(with_label) < 2:
        raise ConfigError(
            f"--across {column} has {n_regions} regions outside val_test: {most_frequent(regions)}. {with_label[0]} of "
            f"them have None and {with_label[1]} have Roadwork. At least {MIN_REGIONS} are needed, and 2 with each "
            "label. Name a column with more regions, or omit --across."
        )


def apply_across(calibration: dict[str, Any], across: AcrossRows) -> dict[str, Any]:
    """The calibration with temperature and threshold for unseen regions, where they help there.

    Args:
        calibration: the content of `calibration.json`, fitted on `val_calib`.
        across: the out-of-region predictions.

    Returns:
        The calibration with the key `across`. Its decisions change only if the new threshold helps.

    Raises:
        ConfigError: there are too few regions.
    """
    check_regions(across.column, across.rows.labels, across.rows.groups)
    rows = across.rows.take(across.rows.groups != "")
    rows = Rows(rows.labels, np.clip(rows.margins, -MARGIN_LIMIT, MARGIN_LIMIT), rows.groups)
    names, codes = np.unique(rows.groups, return_inverse=True)
    weights = _weigh(rows.labels, codes)
    prior = calibration["prior"]
    others = [codes != region for region in range(len(names))]

    temperatures = np.array([fit_temperature(rows.labels[other], rows.margins[other]) for other in others])
    fitted = fit_temperature(rows.labels, rows.margins)
    nll_before = _nll(rows, weights, calibration["temperature"])
    nll_after = _nll(rows, weights, temperatures[codes])
    new_temperature = nll_after < nll_before and has_optimum(rows.labels, rows.margins)

    own = calibration["temperature"] * float(logit(calibration["threshold"]))
    left_out = np.array([_fit_cut(rows.take(other), weights[other], prior) for other in others])
    best = _fit_cut(rows, weights, prior)
    cuts = np.stack([np.zeros(len(names)), np.full(len(names), own), left_out], axis=1)  # margins, (R, 3)
    counts = _count(rows, np.ones(len(rows)), codes, cuts)
    weighed = _count(rows, weights, codes, cuts)
    gain, interval = _gain(weighed, prior)
    total = weighed.sum(axis=0)
    kept = interval[0] > 0 and float(mcc(at_prior(total[2], prior))) > 0

    temperature = fitted if new_temperature else calibration["temperature"]
    found = {
        "column": across.column,
        "regions": len(names),
        "rows": len(rows),
        "rows_without_region": len(across.rows) - len(rows),
        "kept": kept,
        "best": float(probability(np.array(best), temperature)),
        "range": [float(probability(np.array(end), temperature)) for end in (left_out.min(), left_out.max())],
        "gain": gain,
        "gain_interval": list(interval),
        "temperature": {"fitted": fitted, "kept": new_temperature, "nll_val_calib": nll_before, "nll": nll_after},
        "unseen": {
            cut: {"mcc": float(mcc(at_prior(total[i], prior))), **_rates(total[i])} for i, cut in enumerate(CUTS)
        },
        "by_region": [
            {
                "region": str(name),
                "n": int(own_counts[0].sum()),
                "roadwork": int(own_counts[0, 2:].sum()),
                **{cut: _rates(own_counts[i]) for i, cut in enumerate(CUTS)},
            }
            for name, own_counts in zip(names, counts, strict=True)
        ],
    }
    changed = _at_temperature(calibration, temperature)
    if kept:
        changed |= {"threshold": found["best"], "abstain": _without_abstention(calibration["abstain"], across.column)}
    return changed | {"across": found | {"sentence": _explain(found)}}


def _weigh(labels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(N,) weight of each row: its region counts as at most `FULL_WEIGHT` rows of its label."""
    cells = 2 * codes + labels
    weights: np.ndarray = np.minimum(1.0, FULL_WEIGHT / np.bincount(cells)[cells])
    return weights


def _nll(rows: Rows, weights: np.ndarray, temperature: float | np.ndarray) -> float:
    """Weighted mean NLL at one temperature, or at one for each row (N,)."""
    signed = np.where(rows.labels == 1, rows.margins, -rows.margins) / temperature
    return float(-np.average(np.log(probability(signed)), weights=weights))


def _fit_cut(rows: Rows, weights: np.ndarray, prior: float) -> float:
    """The margin from which on Roadwork is decided: the one with the highest MCC at the prior."""
    cuts = Cuts(rows.labels, probability(rows.margins), weights)
    return float(logit(cuts.thresholds[cuts.best(prior)]))


def _count(rows: Rows, weights: np.ndarray, codes: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """(R, K, 4) tn, fp, fn, tp of each region at its own K cuts (R, K), from row weights (N,)."""
    n_regions, n_cuts = cuts.shape
    counts = [
        np.bincount(4 * codes + 2 * rows.labels + (rows.margins >= cut[codes]), weights, minlength=4 * n_regions)
        for cut in cuts.T
    ]
    return np.stack(counts, axis=1).reshape(n_regions, 4, n_cuts).transpose(0, 2, 1)


def _gain(weighed: np.ndarray, prior: float) -> tuple[float, tuple[float, float]]:
    """The MCC of the last cut minus that of the one before, and its 95 % jackknife interval over regions (R, K, 4)."""
    total, n_regions = weighed.sum(axis=0), len(weighed)

    def difference(counts: np.ndarray) -> np.ndarray:
        scores = mcc(at_prior(counts, prior))
        return np.asarray(scores[..., -1] - scores[..., -2])

    gain, without = float(difference(total)), difference(total - weighed)
    error = np.sqrt((n_regions - 1) * np.mean((without - without.mean()) ** 2))
    half = float(stats.t.ppf(0.975, n_regions - 1) * error)
    return gain, (gain - half, gain + half)


def _rates(counts: np.ndarray) -> dict[str, float | None]:
    """The figures that do not depend on the share of Roadwork; None where a label is missing."""
    rates = {name: float(metric(counts)) for name, metric in _RATES.items()}
    return {name: None if np.isnan(value) else value for name, value in rates.items()}


def _at_temperature(calibration: dict[str, Any], temperature: float) -> dict[str, Any]:
    """The calibration at another temperature, with the same decisions: thresholds and band move with it."""
    scale = calibration["temperature"] / temperature

    def move(value: float | None) -> float | None:
        return value if value in (None, 0.0, 1.0) else float(probability(logit(value) * scale))

    fit, abstain = calibration["threshold_fit"], calibration["abstain"]
    return calibration | {
        "temperature": temperature,
        "threshold": move(calibration["threshold"]),
        "threshold_fit": fit | {"best": move(fit["best"]), "interval": [move(end) for end in fit["interval"]]},
        "abstain": abstain | {"low": move(abstain["low"]), "high": move(abstain["high"])},
        "curve": [point | {"threshold": move(point["threshold"])} for point in calibration["curve"]],
    }


def _without_abstention(abstain: dict[str, Any], column: str) -> dict[str, Any]:
    sentence = f"Abstention: off. The threshold is fitted across {column}, and no guarantee holds in another region."
    return abstain | {"promised": False, "low": None, "high": None, "sentence": sentence}


def _explain(found: dict[str, Any]) -> str:
    before, after = found["unseen"]["val_calib"], found["unseen"]["across"]
    changes = "; ".join(
        f"{label} {before[name]:.3f} to {after[name]:.3f}"
        for name, label in (("balanced_accuracy", "balanced accuracy"), ("recall", "recall"),
                            ("false_alarm_rate", "false alarms"))
    )  # fmt: skip
    low, high = found["gain_interval"]
    gain = f"{found['gain']:+.4f} MCC (95 % interval {low:+.4f} to {high:+.4f}); {changes}"
    where = f"Across {found['column']}: in {found['regions']} unseen regions, a threshold from the other regions"
    verdict = f"does not help significantly: {gain}. The threshold of val_calib stays."
    if found["kept"]:
        verdict = f"helps: {gain}. Threshold {found['best']:.4f} is used."
    temperature = found["temperature"]
    nll = f"NLL {temperature['nll_val_calib']:.4f} to {temperature['nll']:.4f}"
    if temperature["kept"]:
        return f"{where} {verdict} Temperature {temperature['fitted']:.3g} is used: {nll}."
    return f"{where} {verdict} The temperature of val_calib stays: {nll}."
