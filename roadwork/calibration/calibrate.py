"""Fits temperature, threshold and abstention band on the predictions of `val_calib`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from roadwork.calibration.abstain import choose_band, groups_needed
from roadwork.calibration.data import ABSTAIN_PARTS, CALIBRATION_SPLIT, Rows, read_rows, set_aside
from roadwork.calibration.figures import Costs, at_prior, decision_figures, figures_with_intervals
from roadwork.calibration.temperature import choose_temperature
from roadwork.calibration.threshold import Cuts, ThresholdChoice, choose_threshold
from roadwork.core.errors import ConfigError
from roadwork.metrics.decision import decide, probability

_CURVE_POINTS = 200


@dataclass(frozen=True)
class CalibrationOptions:
    """The options of a calibration.

    Attributes:
        prior: Share of Roadwork at the deployment; None: the share in the sample.
        risk: Largest expected share of wrong decisions; abstention enforces it. Above 0 and below 1.
        costs: Costs of errors, 0 or more.
    """

    prior: float | None = None
    risk: float = 0.05
    costs: Costs = field(default_factory=Costs)

    def __post_init__(self) -> None:
        if not 0 < self.risk < 1:
            raise ConfigError(f"--risk is {self.risk}; it must be above 0 and below 1, as 0.05.")
        for name, cost in asdict(self.costs).items():
            if not 0 <= cost < float("inf"):
                raise ConfigError(f"--cost-{name.replace('_', '-')} is {cost}; it must be 0 or more.")


def calibrate(frame: pd.DataFrame, options: CalibrationOptions, *, draws: int, seed: int) -> dict[str, Any]:
    """The content of `calibration.json`: temperature, threshold and band, the evidence for each, and the metrics.

    Labels and logits of other splits than `val_calib` are not read, and the order of rows does not matter.

    Args:
        frame: A predictions table.
        options: Prior, risk and costs.
        draws: Number of bootstrap samples.
        seed: Seed of folds and draws.

    Raises:
        DataError: `val_calib` is empty, has one label only, or has a logit that is not finite.
    """
    rows, sha256 = read_rows(frame)
    fitting, aside = set_aside(rows, options.risk, seed)
    fit = choose_temperature(fitting.labels, fitting.margins, fitting.groups, seed)
    probabilities = probability(fitting.margins, fit.temperature)
    choice = choose_threshold(
        fitting.labels, probabilities, fitting.groups, prior=options.prior, draws=draws, seed=seed
    )
    abstain = _describe_abstention(aside, fit.temperature, choice.threshold, options.risk, rows.n_groups)
    return {
        "temperature": fit.temperature,
        "threshold": choice.threshold,
        "prior": float(fitting.labels.mean()) if options.prior is None else options.prior,
        "prior_is_the_samples": options.prior is None,
        "temperature_fit": asdict(fit),
        "threshold_fit": _describe_choice(choice, options),
        "abstain": abstain,
        "curve": _draw_curve(Cuts(fitting.labels, probabilities), choice.best, options),
        "rows": rows.describe(),
        "rows_fitted": fitting.describe(),
        "costs": asdict(options.costs),
        "seed": seed,
        "sha256_of_rows": sha256,
    }


def _describe_abstention(
    aside: Rows, temperature: float, threshold: float, risk: float, n_groups: int
) -> dict[str, Any]:
    if not len(aside):
        needed = groups_needed(risk)
        sentence = (
            f"Abstention: off. A risk of {risk:.3g} needs {needed:,} groups of its own, about "
            f"{needed * ABSTAIN_PARTS:,} groups in {CALIBRATION_SPLIT}. It has {n_groups:,}."
        )
        return {"promised": False, "risk": risk, "low": None, "high": None, "n": 0, "groups": 0, "sentence": sentence}
    probabilities = probability(aside.margins, temperature)
    band = choose_band(aside.labels, probabilities, aside.groups, threshold=threshold, risk=risk)
    answered = ~band.abstains(probabilities)
    wrong = answered & (decide(probabilities, threshold) != aside.labels)
    what = "not needed, the detector decides every photo"
    if band.low is not None:
        share = f"{1 - answered.mean():.1%} of photos"
        what = f"for probabilities from {band.low:.4f} to {band.high:.4f} ({share})"
    sentence = (
        f"Abstention: {what}. The expected share of wrong decisions in a new group is at most {risk:.3g} "
        f"(conformal risk control on {band.n_groups:,} groups). The guarantee does not hold in other regions."
    )
    return {
        "promised": True,
        "risk": risk,
        "low": band.low,
        "high": band.high,
        "bound": band.bound,
        "n": len(aside),
        "groups": band.n_groups,
        "answered_share": float(answered.mean()),
        "answered_wrongly_share": float(wrong.mean()),
        "sentence": sentence,
    }


def _describe_choice(choice: ThresholdChoice, options: CalibrationOptions) -> dict[str, Any]:
    out_of_bag = choice.out_of_bag
    figures = [
        figures_with_intervals(counts, options.prior, options.costs)
        for counts in (out_of_bag.at_half, out_of_bag.chosen)
    ]
    return {
        "kept": choice.kept,
        "best": choice.best,
        "best_mcc_in_sample": choice.best_mcc,
        "interval": list(out_of_bag.threshold_interval),
        "at_half": figures[0],
        "out_of_bag": figures[1],
        "gain": out_of_bag.gain,
        "gain_interval": list(out_of_bag.gain_interval),
        "deciding_groups": choice.deciding_groups,
        "draws": out_of_bag.draws,
        "sentence": choice.sentence,
    }


def _draw_curve(cuts: Cuts, best: float, options: CalibrationOptions) -> list[dict[str, float | None]]:
    """Metrics of the fitted rows at about 200 thresholds, including the best one and the two around 0.5."""
    last = len(cuts.thresholds) - 1
    thinned = np.linspace(0, last, min(_CURVE_POINTS, last + 1)).round().astype(np.int64)
    marked = np.searchsorted(cuts.thresholds, [best, 0.5])
    numbers = np.unique(np.clip(np.concatenate([thinned, marked, marked - 1]), 0, last))
    shares = at_prior(cuts.counts[numbers], options.prior)
    return [
        {"threshold": float(threshold), **decision_figures(row, options.costs)}
        for threshold, row in zip(cuts.thresholds[numbers], shares, strict=True)
    ]
