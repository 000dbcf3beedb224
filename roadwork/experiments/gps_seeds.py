"""Trains every arm of the experiment on GPS weighting, seed by seed."""

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
    ARMS,
    FACTS,
    LAST_LAYER,
    UNIFORM,
    GpsExperiment,
    TrainingRows,
    describe_weights,
    draw_rows,
    weigh_arms,
)
from roadwork.experiments.heads import Phase, predict_held_out, train_heads

logger = logging.getLogger(__name__)

# Uniform draws on folds of single rows, to show by how much such folds flatter; not an arm.
RANDOM_FOLDS = "uniform_random_folds"
TRAINED = (*ARMS, RANDOM_FOLDS)
# A part of the key under which a seed's result is kept; raise it where the same inputs come to give other results.
_FORMAT = 1


@dataclass(frozen=True)
class SeedResult:
    """What one seed gave.

    Attributes:
        probabilities: (len(TRAINED), N) of Roadwork, each row's from a head that has not seen its fold.
        facts: (len(ARMS), len(FACTS)) of the arms' weights, the mean over folds.
    """

    probabilities: np.ndarray
    facts: np.ndarray


def run_seeds(
    experiment: GpsExperiment, centers_deg: np.ndarray, seeds: Sequence[int], folder: Path
) -> list[SeedResult]:
    """The result of each seed; those that `folder` has of the same inputs are read, the others kept there.

    Args:
        experiment: the inputs.
        centers_deg: (K, 2) the deployment's cluster centres.
        seeds: each gives other folds, initial weights, draws and placebo.
        folder: one file a seed, in a folder by the inputs' key.
    """
    folder = folder / experiment.key(_FORMAT, TRAINED)[:16]
    results = []
    with new_progress() as progress:
        task = progress.add_task("Training heads", total=len(seeds) * len(TRAINED))
        for seed in seeds:
            path = folder / f"seed-{seed}.npz"
            result = _read_result(path, len(experiment.table))
            if result is not None:
                logger.info("Seed %d is read from %s.", seed, path)
                progress.advance(task, len(TRAINED))
            else:
                result = run_seed(experiment, centers_deg, seed, on_arm=lambda: progress.advance(task))
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, probabilities=result.probabilities, facts=result.facts)
            results.append(result)
    return results


def run_seed(
    experiment: GpsExperiment, centers_deg: np.ndarray, seed: int, on_arm: Callable[[], object] = lambda: None
) -> SeedResult:
    """Cross-validates every arm on the folds of one seed.

    The arms are paired: fold k of every arm has the same training rows, the same initial weights and the same stream of
    random numbers for its draws. Another seed has other folds too, so that a mean over seeds is also one over the ways
    to divide the data.
    """
    table, groups = experiment.table, experiment.groups
    folds = make_folds(table, groups, experiment.n_folds, seed)
    training = [np.flatnonzero(folds != fold) for fold in range(experiment.n_folds)]
    samples = [TrainingRows(table.gps[rows], table.labels[rows], groups[rows]) for rows in training]
    weights = [
        weigh_arms(sample, centers_deg, experiment.sampling, np.random.default_rng([seed, fold]))
        for fold, sample in enumerate(samples)
    ]
    probabilities = []
    for arm in ARMS:
        probabilities.append(_cross_validate(experiment, arm, folds, [of_fold[arm] for of_fold in weights], seed))
        on_arm()
    splitter = StratifiedKFold(experiment.n_folds, shuffle=True, random_state=seed)
    random_folds = np.empty_like(folds)
    for fold, (_, held_out) in enumerate(splitter.split(table.labels, table.labels)):
        random_folds[held_out] = fold
    equal = [np.ones((random_folds != fold).sum()) for fold in range(experiment.n_folds)]
    probabilities.append(_cross_validate(experiment, UNIFORM, random_folds, equal, seed))
    on_arm()
    facts = [
        [list(describe_weights(of_fold[arm], sample).values()) for arm in ARMS]
        for of_fold, sample in zip(weights, samples, strict=True)
    ]
    return SeedResult(np.stack(probabilities), np.mean(facts, axis=0))


def _cross_validate(
    experiment: GpsExperiment, arm: str, folds: np.ndarray, weights: Sequence[np.ndarray], seed: int
) -> np.ndarray:
    """(N,) probabilities, each row's from the head that was trained on the other folds by these weights."""
    heads = experiment.heads
    training = [np.flatnonzero(folds != fold) for fold in range(experiment.n_folds)]

    def draw(by: Sequence[np.ndarray], n_steps: int, phase: int) -> np.ndarray:
        size = (n_steps, heads.batch_size)
        drawn = [draw_rows(w, n_steps * heads.batch_size, [seed, fold, phase]) for fold, w in enumerate(by)]
        return np.stack([rows[chosen].reshape(size) for rows, chosen in zip(training, drawn, strict=True)])

    if arm == LAST_LAYER:
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
    return result if shapes == ((len(TRAINED), n_rows), (len(ARMS), len(FACTS))) else None
