"""Trains all conditions of the GPS weighting experiment, seed by seed.

It does not use `experiments.plan`: one seed trains all conditions and folds together on shared features in seconds, so
a fit has no run folder, no splits file and no configuration, and results are stored by a hash of their inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from sklearn.model_selection import StratifiedKFold

from roadwork.core.files import atomic_path
from roadwork.core.progress import new_progress
from roadwork.experiments.folds import make_folds
from roadwork.experiments.gps_conditions import (
    CONDITIONS,
    FACTS,
    LAST_LAYER,
    UNIFORM,
    GpsExperiment,
    TrainingRows,
    describe_weights,
    draw_rows,
    weigh_conditions,
)
from roadwork.experiments.heads import Phase, predict_held_out, train_heads

logger = logging.getLogger(__name__)

# Uniform draws on folds of single rows, to measure the bias of such folds; not a condition.
RANDOM_FOLDS = "uniform_random_folds"
TRAINED = (*CONDITIONS, RANDOM_FOLDS)
# Part of the key of a stored result; increase it when a code change gives other results from the same inputs.
_FORMAT = 1


@dataclass(frozen=True)
class SeedResult:
    """The result of one seed.

    Attributes:
        probabilities: (len(TRAINED), N) of Roadwork, each from a head that was not trained on the row's fold.
        facts: (len(CONDITIONS), len(FACTS)) of the weights, the mean over folds.
    """

    probabilities: np.ndarray
    facts: np.ndarray


def run_seeds(
    experiment: GpsExperiment, centers_deg: np.ndarray, seeds: Sequence[int], folder: Path
) -> list[SeedResult]:
    """The result of each seed, read from `folder` if it has one for the same inputs, else trained and stored there.

    Args:
        experiment: the inputs.
        centers_deg: (K, 2) latitude, longitude in degrees of the deployment's cluster centres.
        seeds: each has its own folds, initial weights, draws and placebo.
        folder: holds a folder per key of the inputs, with one file per seed.
    """
    folder = folder / experiment.key(_FORMAT, TRAINED)[:16]
    results = []
    with new_progress() as progress:
        task = progress.add_task("Training heads", total=len(seeds) * len(TRAINED))
        for seed in seeds:
            path = folder / f"seed-{seed}.npz"
            result = _read_result(path, len(experiment.table))
            if result is not None:
                logger.info("Seed %d was already finished; its result is read from %s.", seed, path)
                progress.advance(task, len(TRAINED))
            else:
                result = run_seed(experiment, centers_deg, seed, on_trained=lambda: progress.advance(task))
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, probabilities=result.probabilities, facts=result.facts)
            results.append(result)
    return results


def run_seed(
    experiment: GpsExperiment, centers_deg: np.ndarray, seed: int, on_trained: Callable[[], object] = lambda: None
) -> SeedResult:
    """Cross-validates all conditions on the folds of one seed.

    Conditions are paired: fold k has the same training rows, initial weights and random stream for its draws in all of
    them. Each seed has its own folds, so a mean over seeds also averages over divisions of the data.
    """
    table, groups = experiment.table, experiment.groups
    folds = make_folds(table, groups, experiment.n_folds, seed)
    masks = [folds != fold for fold in range(experiment.n_folds)]
    samples = [TrainingRows(table.gps[rows], table.labels[rows], groups[rows]) for rows in masks]
    weights = [
        weigh_conditions(sample, centers_deg, experiment.sampling, np.random.default_rng([seed, fold]))
        for fold, sample in enumerate(samples)
    ]
    splitter = StratifiedKFold(experiment.n_folds, shuffle=True, random_state=seed)
    random_folds = np.empty_like(folds)
    for fold, (_, held_out) in enumerate(splitter.split(table.labels, table.labels)):
        random_folds[held_out] = fold
    equal = [np.ones((random_folds != fold).sum()) for fold in range(experiment.n_folds)]
    trainings = [(name, folds, [of_fold[name] for of_fold in weights]) for name in CONDITIONS]
    probabilities = []
    for training in (*trainings, (UNIFORM, random_folds, equal)):
        probabilities.append(_cross_validate(experiment, *training, seed))
        on_trained()
    facts = [
        [list(describe_weights(of_fold[name], sample).values()) for name in CONDITIONS]
        for of_fold, sample in zip(weights, samples, strict=True)
    ]
    return SeedResult(np.stack(probabilities), np.mean(facts, axis=0))


def _cross_validate(
    experiment: GpsExperiment, condition: str, folds: np.ndarray, weights: Sequence[np.ndarray], seed: int
) -> np.ndarray:
    """(N,) probabilities, each from the head that was trained on the other folds with these weights."""
    heads = experiment.heads
    training = [np.flatnonzero(folds != fold) for fold in range(experiment.n_folds)]

    def draw(by: Sequence[np.ndarray], n_steps: int, phase: int) -> np.ndarray:
        size = (n_steps, heads.batch_size)
        drawn = [draw_rows(w, n_steps * heads.batch_size, [seed, fold, phase]) for fold, w in enumerate(by)]
        return np.stack([rows[chosen].reshape(size) for rows, chosen in zip(training, drawn, strict=True)])

    if condition == LAST_LAYER:
        n_first = heads.steps // 2
        equal = [np.ones(len(rows)) for rows in training]
        phases = [
            Phase(draw(equal, n_first, 0)),
            Phase(draw(weights, heads.steps - n_first, 1), last_layer_only=True),
        ]
    else:
        phases = [Phase(draw(weights, heads.steps, 0))]
    seeds = [int(np.random.SeedSequence([seed, fold]).generate_state(1)[0]) for fold in range(experiment.n_folds)]
    trained = train_heads(experiment.features, experiment.table.labels, training, phases, seeds=seeds, settings=heads)
    return predict_held_out(trained, experiment.features, folds)


def _read_result(path: Path, n_rows: int) -> SeedResult | None:
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            result = SeedResult(stored["probabilities"], stored["facts"])
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    shapes = result.probabilities.shape, result.facts.shape
    return result if shapes == ((len(TRAINED), n_rows), (len(CONDITIONS), len(FACTS))) else None
