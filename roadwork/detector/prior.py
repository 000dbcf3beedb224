"""Estimates the share of Roadwork in the predicted photos, and adjusts their probabilities and decisions to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from roadwork.calibration.label_shift import PriorEstimate, ScoreHistogram, estimate_prior
from roadwork.data.utils.geo import h3_cells
from roadwork.detector.detector import decide_photos
from roadwork.detector.familiarity import UNFAMILIAR, Familiarity
from roadwork.detector.format import ExportFacts
from roadwork.detector.outputs import Record
from roadwork.metrics.classification import balanced_accuracy, false_alarm_rate, recall

# Photos in a hexagon with sides of about 200 m are one group.
_PLACE_RESOLUTION = 9
# Photos without a position: consecutive ones are often frames of one drive.
_MOST_CONSECUTIVE, _FEWEST_BLOCKS = 10, 20
_BATCH = 4096
# Beyond these log-odds a probability is exactly 0 or 1.
_LIMIT = 30.0


@dataclass(frozen=True)
class Adjustment:
    """An estimate of the share of Roadwork, and what follows from it.

    Attributes:
        estimate: None without a readable photo.
        reasons: why nothing is adjusted; empty if it is.
        facts: threshold, band and prior of the adjusted probabilities; those of the export if nothing is adjusted.
        shift: added to the log-odds of each probability.
        expected: recall, false-alarm rate and balanced accuracy in `val_calib` before and after; empty if nothing is
            adjusted.
    """

    estimate: PriorEstimate | None
    reasons: tuple[str, ...]
    facts: ExportFacts
    shift: float = 0.0
    expected: tuple[dict[str, float], ...] = ()

    @property
    def is_used(self) -> bool:
        """Whether probabilities and decisions are adjusted."""
        return not self.reasons

    def apply(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records with adjusted label, probability and abstention."""
        if not self.is_used:
            yield from records
            return
        iterator = iter(records)
        while batch := list(islice(iterator, _BATCH)):
            known = [record.probability for record in batch if record.probability is not None]
            adjusted = iter(decide_photos(_expit(_log_odds(np.array(known)) + self.shift), self.facts))
            for record in batch:
                if record.probability is None:
                    yield record
                    continue
                new = next(adjusted)
                yield replace(record, label=new.label, probability=new.probability, abstain=new.abstain)

    def as_dict(self) -> dict[str, Any]:
        """The estimate and the reasons, as JSON values."""
        estimate = {} if self.estimate is None else self.estimate.as_dict()
        return estimate | {"is_used": self.is_used, "reasons": list(self.reasons), "expected": list(self.expected)}

    def lines(self, before: ExportFacts) -> list[str]:
        """The estimate for people; `before` are the facts of the export."""
        if not self.is_used or self.estimate is None or before.scores is None:
            return [f"The share of Roadwork cannot be estimated: {' Also: '.join(self.reasons)} Nothing is adjusted."]
        estimate, raw = self.estimate, _expit(_log_odds(np.array([self.facts.threshold])) - self.shift)[0]
        old, new = self.expected
        changes = ", ".join(
            f"{label} {old[key]:.2f} to {new[key]:.2f}"
            for key, label in (("recall", "recall"), ("false_alarm_rate", "false alarms"),
                               ("balanced_accuracy", "balanced accuracy"))
        )  # fmt: skip
        share = (
            f"Estimated share of Roadwork: {estimate.prior:.3g} (95 % interval {estimate.low:.3g} to "
            f"{estimate.high:.3g}; by BBSE {estimate.bbse:.3g}, {estimate.bbse_low:.3g} to {estimate.bbse_high:.3g}), "
            f"from {estimate.n:,} photos in {estimate.groups:,} groups. val_calib has {before.scores.prior:.3g}."
        )
        effect = (
            f"Adjusted to it: Roadwork from a probability of {self.facts.threshold:.3g}, which was {raw:.3g} before. "
            f"If only the share differs: {changes}."
        )
        return [share, effect]


def adjust_to_prior(
    facts: ExportFacts, scores: ScoreHistogram, records: Iterable[Record], familiarity: Familiarity
) -> Adjustment:
    """Estimates the share of Roadwork from records as the network predicted them.

    Args:
        facts: of the export.
        scores: of `val_calib`.
        records: of all photos.
        familiarity: the verdict on the photos.
    """
    readable = [(r.probability, r.latitude, r.longitude) for r in records if r.probability is not None]
    if not readable:
        return Adjustment(None, ("no photo can be read.",), facts)
    values = np.array(readable, dtype=np.float64)
    estimate = estimate_prior(scores, _log_odds(values[:, 0]), group_photos(values[:, 1:]))
    reasons = estimate.reasons
    if familiarity.verdict == UNFAMILIAR:
        reasons = ("the photos do not look like the training photos, so more than the share differs.", *reasons)
    if reasons:
        return Adjustment(estimate, reasons, facts)
    # An estimate of 0 would forbid Roadwork for good.
    least = 1 / (2 * estimate.n)
    prior = min(max(estimate.prior, least), 1 - least)
    to_new = _logit(prior)
    of_probabilities = _logit(scores.prior)
    of_threshold = of_probabilities if facts.prior is None else _logit(facts.prior)
    # The threshold was chosen for a prior; it is the same probability at every other prior.
    moved = of_threshold - of_probabilities
    adjusted = replace(
        facts,
        threshold=_move(facts.threshold, moved),
        prior=prior,
        abstain_low=None if facts.abstain_low is None else _move(facts.abstain_low, moved),
        abstain_high=None if facts.abstain_high is None else _move(facts.abstain_high, moved),
    )
    cuts = (_logit(facts.threshold), _logit(facts.threshold) + of_threshold - to_new)
    return Adjustment(estimate, (), adjusted, to_new - of_probabilities, tuple(_expect(scores, cut) for cut in cuts))


def group_photos(gps: np.ndarray) -> np.ndarray:
    """(N,) group of each photo: its place, or a block of consecutive photos without a position.

    Args:
        gps: (N, 2) latitude, longitude in degrees, NaN where missing.
    """
    cells = h3_cells(gps, _PLACE_RESOLUTION)
    without = np.flatnonzero(cells == "")
    size = int(np.clip(len(gps) // _FEWEST_BLOCKS, 1, _MOST_CONSECUTIVE))
    cells[without] = [f"block {number // size}" for number in range(len(without))]
    groups: np.ndarray = np.unique(cells.astype(str), return_inverse=True)[1]
    return groups


def _expect(scores: ScoreHistogram, cut: float) -> dict[str, float]:
    found, alarms = scores.rates(cut)
    shares = np.array([1 - alarms, alarms, 1 - found, found])
    rates = {"recall": recall, "false_alarm_rate": false_alarm_rate, "balanced_accuracy": balanced_accuracy}
    return {name: float(metric(shares)) for name, metric in rates.items()}


def _log_odds(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        odds: np.ndarray = np.clip(np.log(probabilities) - np.log1p(-probabilities), -_LIMIT, _LIMIT)
    return odds


def _expit(log_odds: np.ndarray) -> np.ndarray:
    probabilities: np.ndarray = 1 / (1 + np.exp(-log_odds))
    return probabilities


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def _move(probability: float, by: float) -> float:
    """A probability with shifted log-odds; 0 and 1 stay."""
    return probability if probability in (0.0, 1.0) else 1 / (1 + math.exp(-_logit(probability) - by))
