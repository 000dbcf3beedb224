"""The figures of the experiment on GPS weighting.

The primary endpoint, fixed in advance, is the **deployment-weighted MCC**: the MCC of the weighted confusion counts in
which a row counts by the sampling weight of its distance bracket (of rows without GPS where it has none), whatever its
label, divided by the sum of the weights of all rows. It says how well a detector does where the configuration says that
it matters. Every MCC is of out-of-fold decisions at 0.5, and the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roadwork.data.samplers.brackets import parse_brackets
from roadwork.data.samplers.gps_weighted_sampler import GPSWeightedSampler
from roadwork.evaluation.intervals import effective_groups, percentile_interval
from roadwork.evaluation.metrics import decide, mcc
from roadwork.experiments.arms import ARMS, FACTS, PLACEBO, UNIFORM
from roadwork.experiments.gps import GpsExperiment
from roadwork.experiments.gps_seeds import RANDOM_FOLDS, TRAINED, SeedResult
from roadwork.experiments.paired_bootstrap import bootstrap_mcc, count_paired, weigh_counts
from roadwork.experiments.worst_cell import MIN_ROWS_A_LABEL, judge_cells, mcc_by_cell

PRIMARY, OVERALL = "deployment_mcc", "mcc"


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
