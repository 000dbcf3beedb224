"""Metrics and conclusions of the GPS weighting experiment.

The primary endpoint, fixed in advance, is the **deployment-weighted MCC**: the MCC of the weighted confusion counts in
which a row counts by the sampling weight of its distance bracket (of rows without GPS where it has none), whatever its
label, divided by the sum of the weights of all rows. It says how well a detector does where the configuration says that
it matters. Every MCC is of out-of-fold decisions at 0.5, and the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import h3
import numpy as np

from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.data.samplers.weights import parse_brackets
from roadwork.data.utils.geo import h3_cells
from roadwork.experiments.gps_conditions import ARMS, FACTS, GPS, PLACEBO, UNIFORM, GpsExperiment
from roadwork.experiments.gps_seeds import RANDOM_FOLDS, TRAINED, SeedResult
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, effective_groups, percentile_interval, weigh_counts

# A cell is judged with so many rows of either label; fewer make an MCC of chance.
MIN_ROWS_A_LABEL = 10

# The finest of these H3 resolutions (edges of 9, 23, 60, 160 and 420 km) whose judged cells hold so large a share of
# the rows with GPS.
_RESOLUTIONS = (5, 4, 3, 2, 1)
_MIN_SHARE = 0.8
PRIMARY, OVERALL = "deployment_mcc", "mcc"
GAIN, HARM = "GPS weighting helps here", "GPS weighting harms here"
NO_EVIDENCE = "no evidence that GPS weighting helps here"

# A bootstrap redraws only the differences that it has seen, so of a handful it says too much.
MIN_DIFFERING_GROUPS = 10


@dataclass(frozen=True)
class JudgedCells:
    """Cells with enough rows of both labels.

    Attributes:
        resolution: H3's.
        names: (C,) of the judged cells.
        rows: (N,) int64 cell of each row, C where it is in none of them.
    """

    resolution: int
    names: np.ndarray
    rows: np.ndarray

    @property
    def centers_deg(self) -> np.ndarray:
        """(C, 2) latitude, longitude in degrees."""
        return np.array([h3.cell_to_latlng(name) for name in self.names]).reshape(-1, 2)


def judge_cells(labels: np.ndarray, gps: np.ndarray) -> JudgedCells:
    """The cells that can be judged, at the finest resolution that leaves few rows out, else the coarsest."""
    n_with_gps = (~np.isnan(gps).any(axis=1)).sum()
    for resolution in _RESOLUTIONS:
        names, codes = np.unique(h3_cells(gps, resolution).astype(str), return_inverse=True)
        counts = np.bincount(2 * codes + labels, minlength=2 * len(names)).reshape(-1, 2)
        enough = (counts >= MIN_ROWS_A_LABEL).all(axis=1) & (names != "")
        if counts[enough].sum() >= _MIN_SHARE * n_with_gps:
            break
    numbers = np.where(enough, np.cumsum(enough) - 1, enough.sum())
    return JudgedCells(resolution, names[enough], numbers[codes])


def mcc_by_cell(cells: JudgedCells, labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(C, A) MCC of each judged cell and model, the mean over seeds.

    Args:
        cells: C of N rows.
        labels: (N,) 0 or 1.
        probabilities: (S, A, N) of Roadwork.
    """
    one_group = np.zeros(len(labels), dtype=np.int64)
    counts = count_paired(labels, probabilities, one_group, cells.rows, len(cells.names) + 1)[0, :-1]
    means: np.ndarray = mcc(counts).mean(axis=1)
    return means


@dataclass(frozen=True)
class Endpoint:
    """An MCC of every model trained.

    Attributes:
        by_seed: (S, A).
        drawn: (draws, A) by bootstrap, the mean over seeds.
    """

    by_seed: np.ndarray
    drawn: np.ndarray

    def of(self, name: str) -> dict[str, Any]:
        """The MCC of one model with its 95 % interval."""
        column = TRAINED.index(name)
        return _summarise(self.by_seed[:, column], self.drawn[:, column])

    def difference(self, name: str, other: str) -> dict[str, Any]:
        """By how much one model's MCC is above another's, paired by seed and by bootstrap draw."""
        a, b = TRAINED.index(name), TRAINED.index(other)
        return _summarise(self.by_seed[:, a] - self.by_seed[:, b], self.drawn[:, a] - self.drawn[:, b])


def analyse(
    experiment: GpsExperiment, sampler: GPSWeightedSampler, results: Sequence[SeedResult], *, draws: int, seed: int
) -> dict[str, Any]:
    """Every figure of the report, ready for JSON.

    Args:
        experiment: the inputs.
        sampler: the configured sampler on all rows.
        results: of each seed.
        draws: bootstrap samples.
        seed: of the bootstrap.
    """
    table, groups = experiment.table, experiment.groups
    probabilities = np.stack([result.probabilities for result in results])
    brackets = _describe_brackets(experiment, sampler)
    strata = parse_brackets(experiment.sampling.weight_brackets).index_of(sampler.distances_km)
    counts = count_paired(table.labels, probabilities, groups, strata, len(brackets))
    row_weights = np.array([bracket["weight"] for bracket in brackets])
    weightings = np.vstack([row_weights, np.ones(len(brackets)), np.eye(len(brackets))])
    by_seed = mcc(weigh_counts(counts.sum(axis=0), weightings))
    drawn = bootstrap_mcc(counts, weightings, draws=draws, seed=seed)
    primary, overall, *by_bracket = (Endpoint(by_seed[k], drawn[:, k]) for k in range(len(weightings)))
    # With one label only there is no MCC.
    judged = [0 < bracket["roadwork"] < bracket["rows"] for bracket in brackets]

    def compare(arm: str, other: str) -> dict[str, Any]:
        disagree = decide(probabilities[:, TRAINED.index(arm)]) != decide(probabilities[:, TRAINED.index(other)])
        _, codes = np.unique(groups, return_inverse=True)
        return {
            PRIMARY: primary.difference(arm, other),
            OVERALL: overall.difference(arm, other),
            "by_bracket": [
                endpoint.difference(arm, other) if has_both else None
                for endpoint, has_both in zip(by_bracket, judged, strict=True)
            ],
            "differing_groups": effective_groups(np.bincount(codes, disagree.mean(axis=0) * row_weights[strata])),
        }

    facts = dict(zip(ARMS, np.mean([result.facts for result in results], axis=0).tolist(), strict=True))
    cells = judge_cells(table.labels, table.gps)
    cell_mcc = mcc_by_cell(cells, table.labels, probabilities)
    arms = {
        arm: {
            PRIMARY: primary.of(arm),
            OVERALL: overall.of(arm),
            "by_bracket": [
                endpoint.of(arm) if has_both else None for endpoint, has_both in zip(by_bracket, judged, strict=True)
            ],
            "worst_cell": _worst_cell(cell_mcc[:, TRAINED.index(arm)], cells.centers_deg),
            **dict(zip(FACTS, facts[arm], strict=True)),
        }
        for arm in ARMS
    }
    return {
        "rows": len(table),
        "groups": len(np.unique(groups)),
        "roadwork": int(table.labels.sum()),
        "seeds": len(results),
        "brackets": brackets,
        "cells": {"resolution": cells.resolution, "judged": len(cells.names), "min_rows_a_label": MIN_ROWS_A_LABEL},
        "arms": arms,
        "differences": {
            arm: {other: compare(arm, other) for other in (UNIFORM, PLACEBO) if other != arm}
            for arm in ARMS
            if arm != UNIFORM
        },
        "random_folds": {
            "mcc": overall.of(RANDOM_FOLDS),
            "grouped_mcc": overall.of(UNIFORM),
            "difference": overall.difference(RANDOM_FOLDS, UNIFORM),
        },
    }


def _describe_brackets(experiment: GpsExperiment, sampler: GPSWeightedSampler) -> list[dict[str, Any]]:
    """Name, weight and size of each distance bracket, and at last of the rows without GPS."""
    brackets = parse_brackets(experiment.sampling.weight_brackets)
    index = brackets.index_of(sampler.distances_km)
    names = (*brackets.names, "without GPS")
    weights = (*brackets.weights.tolist(), experiment.sampling.missing_weight)
    return [
        {
            "name": name,
            "weight": weight,
            "rows": int((index == number).sum()),
            "groups": len(np.unique(experiment.groups[index == number])),
            "roadwork": int(experiment.table.labels[index == number].sum()),
        }
        for number, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]


def _worst_cell(mcc_of_cells: np.ndarray, centers_deg: np.ndarray) -> dict[str, Any] | None:
    if not len(mcc_of_cells):
        return None
    worst = int(mcc_of_cells.argmin())
    return {"mcc": float(mcc_of_cells[worst]), "center_deg": centers_deg[worst].tolist()}


def _summarise(by_seed: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    low, high = percentile_interval(drawn)
    seed_sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return {
        "value": float(by_seed.mean()),
        "low": low,
        "high": high,
        "by_seed": by_seed.tolist(),
        "seed_sd": seed_sd,
    }


def decide_verdict(figures: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the `gps` arm: its claim, the reasons in words, and remarks on the others, which claim nothing.

    A gain is claimed where the primary endpoint of `gps` is above both `uniform` and `placebo` with the whole 95 %
    interval of the difference above 0, and each differs in ten or more effective groups; a harm where both are below.

    Args:
        figures: as `analyse` gives them.
    """
    against = figures["differences"][GPS]
    differences = [against[other][PRIMARY] for other in (UNIFORM, PLACEBO)]
    enough = all(against[other]["differing_groups"] >= MIN_DIFFERING_GROUPS for other in (UNIFORM, PLACEBO))
    claim = NO_EVIDENCE
    if enough and all(difference["low"] > 0 for difference in differences):
        claim = GAIN
    elif enough and all(difference["high"] < 0 for difference in differences):
        claim = HARM
    reasons = [
        f"Deployment-weighted MCC of gps against {other}: {show_difference(against[other][PRIMARY])}."
        for other in (UNIFORM, PLACEBO)
    ]
    smallest = max((difference["high"] - difference["low"]) / 2 for difference in differences)
    if claim == NO_EVIDENCE:
        reasons.append(_say_what_could_be_seen(figures, smallest, enough))
    return {
        "claim": claim,
        "reasons": reasons,
        "smallest_effect": smallest,
        "remarks": _remark_on_others(figures["differences"]),
    }


def show_difference(difference: dict[str, Any]) -> str:
    """A difference with its interval, such as `+0.012 (95 % -0.004 to +0.027)`."""
    return f"{difference['value']:+.3f} (95 % {difference['low']:+.3f} to {difference['high']:+.3f})"


def _say_what_could_be_seen(figures: dict[str, Any], smallest: float, enough: bool) -> str:
    weights = {bracket["weight"] for bracket in figures["brackets"] if bracket["rows"]}
    if len(weights) == 1:
        return (
            "All rows lie in brackets of one weight, so weighting changes nothing: the question cannot be asked here."
        )
    if not enough:
        return (
            f"The arms decide differently in fewer than {MIN_DIFFERING_GROUPS} effective groups: "
            "too few for an interval that could be trusted."
        )
    return (
        f"The smallest effect that this data could have shown is about {smallest:.3f} (half the wider interval): "
        "that of a smaller one stays unknown."
    )


def _remark_on_others(differences: dict[str, Any]) -> list[str]:
    seen = [
        f"{arm} against uniform: {show_difference(differences[arm][UNIFORM][PRIMARY])}"
        for arm in ARMS
        if arm not in (UNIFORM, GPS)
        and (differences[arm][UNIFORM][PRIMARY]["low"] > 0 or differences[arm][UNIFORM][PRIMARY]["high"] < 0)
    ]
    if not seen:
        return ["No other arm differs from uniform by more than its interval."]
    return [*(f"{text}." for text in seen), "These are not claims: of several comparisons, some stand out by chance."]
