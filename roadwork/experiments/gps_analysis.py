"""Metrics and conclusions of the GPS weighting experiment.

The primary endpoint, fixed in advance, is the **deployment-weighted MCC**: the MCC of weighted confusion counts. A row
counts by the sampling weight of its distance bracket, or by the weight of rows without GPS, whatever its label. The
metric measures a detector where the configuration puts weight. Each MCC is the mean over seeds, from out-of-fold
decisions at 0.5.
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
from roadwork.experiments.comparison import MIN_DIFFERING_GROUPS, format_difference, summarise
from roadwork.experiments.gps_conditions import CONDITIONS, FACTS, GPS, PLACEBO, UNIFORM, GpsExperiment
from roadwork.experiments.gps_seeds import RANDOM_FOLDS, TRAINED, SeedResult
from roadwork.metrics.classification import mcc
from roadwork.metrics.decision import decide
from roadwork.metrics.intervals import bootstrap_mcc, count_paired, effective_groups, weigh_counts

# Rows of each label that a cell needs; the MCC of fewer rows is mostly chance.
MIN_ROWS_A_LABEL = 10

# H3 resolutions, with edges of 9, 23, 60, 160 and 420 km. The finest is used whose evaluated cells hold this share of
# the rows with GPS.
_RESOLUTIONS = (5, 4, 3, 2, 1)
_MIN_SHARE = 0.8
PRIMARY, OVERALL, SINGLE = "deployment_mcc", "mcc", "by_seed"
GAIN, HARM = "GPS weighting helps here", "GPS weighting harms here"
NO_EVIDENCE = "no evidence that GPS weighting helps here"


@dataclass(frozen=True)
class JudgedCells:
    """Cells with enough rows of both labels to evaluate.

    Attributes:
        resolution: of H3.
        names: (C,) of the cells.
        rows: (N,) int64 cell of each row; C if the row is in none of them.
    """

    resolution: int
    names: np.ndarray
    rows: np.ndarray

    @property
    def centers_deg(self) -> np.ndarray:
        """(C, 2) latitude, longitude in degrees."""
        return np.array([h3.cell_to_latlng(name) for name in self.names]).reshape(-1, 2)


def judge_cells(labels: np.ndarray, gps: np.ndarray) -> JudgedCells:
    """The cells that can be evaluated, at the finest resolution that omits few rows, else the coarsest."""
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
    """(C, A) MCC of each cell and model, the mean over seeds.

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
    """An MCC of each trained model.

    Attributes:
        by_seed: (S, A).
        drawn: (draws, A) bootstrap draws of the mean over seeds.
    """

    by_seed: np.ndarray
    drawn: np.ndarray

    def of(self, name: str, minus: str | None = None) -> dict[str, Any]:
        """One model's MCC, or its difference from another's, paired by seed and draw, with the 95 % interval."""
        by_seed, drawn = (
            values[:, TRAINED.index(name)] - (values[:, TRAINED.index(minus)] if minus else 0)
            for values in (self.by_seed, self.drawn)
        )
        seed_sd = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
        return summarise(by_seed, drawn, SINGLE) | {"seed_sd": seed_sd}


def analyse(
    experiment: GpsExperiment, sampler: GPSWeightedSampler, results: Sequence[SeedResult], *, draws: int, seed: int
) -> dict[str, Any]:
    """All metrics of the report, ready for JSON.

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
    # A bracket with one label has no MCC.
    judged = [0 < bracket["roadwork"] < bracket["rows"] for bracket in brackets]

    _, codes = np.unique(groups, return_inverse=True)

    def measure(name: str, minus: str | None = None) -> dict[str, Any]:
        return {
            PRIMARY: primary.of(name, minus),
            OVERALL: overall.of(name, minus),
            "by_bracket": [
                endpoint.of(name, minus) if has_both else None
                for endpoint, has_both in zip(by_bracket, judged, strict=True)
            ],
        }

    def compare(name: str, other: str) -> dict[str, Any]:
        disagree = decide(probabilities[:, TRAINED.index(name)]) != decide(probabilities[:, TRAINED.index(other)])
        weighted = disagree.mean(axis=0) * row_weights[strata]
        return measure(name, other) | {"differing_groups": effective_groups(np.bincount(codes, weighted))}

    facts = np.mean([result.facts for result in results], axis=0).tolist()
    cells = judge_cells(table.labels, table.gps)
    cell_mcc = mcc_by_cell(cells, table.labels, probabilities)
    conditions = {
        name: {
            **measure(name),
            "worst_cell": _worst_cell(cell_mcc[:, number], cells.centers_deg),
            **dict(zip(FACTS, facts[number], strict=True)),
        }
        for number, name in enumerate(CONDITIONS)
    }
    return {
        "rows": len(table),
        "groups": int(codes.max() + 1),
        "roadwork": int(table.labels.sum()),
        "seeds": len(results),
        "brackets": brackets,
        "cells": {"resolution": cells.resolution, "judged": len(cells.names), "min_rows_a_label": MIN_ROWS_A_LABEL},
        "arms": conditions,
        "differences": {
            name: {other: compare(name, other) for other in (UNIFORM, PLACEBO) if other != name}
            for name in CONDITIONS
            if name != UNIFORM
        },
        "random_folds": {
            "mcc": overall.of(RANDOM_FOLDS),
            "grouped_mcc": overall.of(UNIFORM),
            "difference": overall.of(RANDOM_FOLDS, UNIFORM),
        },
    }


def _describe_brackets(experiment: GpsExperiment, sampler: GPSWeightedSampler) -> list[dict[str, Any]]:
    """Name, weight and size of each distance bracket; the last entry holds the rows without GPS."""
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


def decide_verdict(metrics: dict[str, Any]) -> dict[str, Any]:
    """The verdict on the condition `gps`: claim, reasons, and remarks on the other conditions, which make no claim.

    A gain is claimed if `gps` is above both `uniform` and `placebo` in the primary endpoint: both 95 % intervals are
    above 0, and both comparisons differ in ten or more effective groups. A harm is claimed if both are below 0.

    Args:
        metrics: as `analyse` returns them.
    """
    against = [metrics["differences"][GPS][other] for other in (UNIFORM, PLACEBO)]
    differences = [own[PRIMARY] for own in against]
    enough = all(own["differing_groups"] >= MIN_DIFFERING_GROUPS for own in against)
    claim = NO_EVIDENCE
    if enough and all(difference["low"] > 0 for difference in differences):
        claim = GAIN
    elif enough and all(difference["high"] < 0 for difference in differences):
        claim = HARM
    reasons = [
        f"Deployment-weighted MCC of gps minus {other}: {format_difference(difference)}."
        for other, difference in zip((UNIFORM, PLACEBO), differences, strict=True)
    ]
    smallest = max((difference["high"] - difference["low"]) / 2 for difference in differences)
    if claim == NO_EVIDENCE:
        reasons.append(_explain_no_evidence(metrics, smallest, enough))
    return {
        "claim": claim,
        "reasons": reasons,
        "smallest_effect": smallest,
        "remarks": _remark_on_others(metrics["differences"]),
    }


def _explain_no_evidence(metrics: dict[str, Any], smallest: float, enough: bool) -> str:
    weights = {bracket["weight"] for bracket in metrics["brackets"] if bracket["rows"]}
    if len(weights) == 1:
        return "All rows are in brackets of the same weight, so weighting changes nothing on this data."
    if not enough:
        return (
            f"The conditions decide differently in fewer than {MIN_DIFFERING_GROUPS} effective groups: too few for a "
            "reliable interval."
        )
    return (
        f"The smallest effect that this data could have detected is about {smallest:.3f} (half the wider interval). "
        "Smaller effects remain unknown."
    )


def _remark_on_others(differences: dict[str, Any]) -> list[str]:
    others = {name: own[UNIFORM][PRIMARY] for name, own in differences.items() if name != GPS}
    seen = [
        f"{name} minus uniform: {format_difference(difference)}."
        for name, difference in others.items()
        if difference["low"] > 0 or difference["high"] < 0
    ]
    if not seen:
        return ["The interval of every other condition minus uniform contains 0."]
    return [*seen, "These are not claims: with several comparisons, some differ by chance."]
