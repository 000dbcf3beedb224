"""Stores a reference sample of training photos' features with an export, so that batches can be compared with it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roadwork.core.errors import RoadworkError
from roadwork.core.progress import track
from roadwork.data.images import UnreadableImageError, read_pixels, upright_size
from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import Reference, photo_facts
from roadwork.detector.two_sample import SIZES, null_distribution
from roadwork.evaluation.evaluate import open_run_data
from roadwork.runs.run import Run
from roadwork.settings.sampling import TRAIN_SPLIT, VALIDATION_SPLITS

logger = logging.getLogger(__name__)

REFERENCE_PHOTOS = 1000
_MAX_BYTES = 1_900_000
_ROWS_PER_GROUP = SIZES[-1]
_BATCH = 32
_RESULTS = ("mcc", "mcc_low", "mcc_high", "n")


def write_reference(run: Run, folder: Path, detector: Detector, result: dict[str, Any] | None, n_photos: int) -> None:
    """Writes the reference of a run into its export; warns and writes none if its data cannot be used.

    Args:
        run: the exported run.
        folder: the export.
        detector: loaded from it, so that features are computed as in prediction.
        result: the run's result on val_test; None if it was not evaluated.
        n_photos: the most photos to store; 0 writes no reference.
    """
    if not n_photos:
        return
    try:
        reference = _build(run, detector, result or {}, n_photos)
    except RoadworkError as error:
        reference, reason = None, str(error)
    else:
        reason = "the run has no splits.json, or its network has no features."
    if reference is None:
        logger.warning("The export cannot judge how familiar a batch of photos is: %s", reason)
    else:
        reference.write(folder)


def _build(run: Run, detector: Detector, result: dict[str, Any], n_photos: int) -> Reference | None:
    if not run.splits_file.is_file():
        return None
    data = open_run_data(run.folder)
    splits, names = data.split_names.copy(), data.groups.names
    splits[list(data.ledger.reasons)] = ""
    # Training changes the features of the photos that it fits. A frozen backbone has seen none of them.
    fitted = (splits == TRAIN_SPLIT) & (not data.settings.training.freeze_backbone)
    unseen = np.isin(splits, (TRAIN_SPLIT, *VALIDATION_SPLITS)) & ~fitted
    probe = detector.logits_and_features(torch.zeros(1, 3, detector.preprocessing.size, detector.preprocessing.size))[1]
    if probe is None:
        return None
    n_photos = min(n_photos, _MAX_BYTES // (2 * probe.shape[1] + 4 * 8))
    rng = np.random.default_rng(0)
    chosen = _sample_groups(unseen, names, n_photos // 2 if fitted.any() else n_photos, rng)
    chosen = np.concatenate([chosen, _sample_groups(fitted, names, n_photos - len(chosen), rng)])
    rows, features, facts = _read_features(detector, data.source, chosen)
    # The order of the rows is random, so a group's number says nothing about its name or place.
    order = rng.permutation(len(rows))
    rows, features, facts = rows[order], features[order], facts[order]
    groups = np.unique(names[rows].astype(str), return_inverse=True)[1]
    groups = rng.permutation(groups.max(initial=0) + 1)[groups]
    features = features.astype(np.float16).astype(np.float32)  # as stored
    sizes, null = null_distribution(features, groups, unseen[rows])
    return Reference(features, groups, facts, sizes, null, {key: result[key] for key in _RESULTS if key in result})


def _sample_groups(wanted: np.ndarray, groups: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """At most `count` rows where `wanted` (N,) is true: random whole groups, with a limited number of rows each."""
    rows = np.flatnonzero(wanted)
    chosen: list[int] = []
    for group in rng.permutation(np.unique(groups[rows].astype(str))).tolist():
        own = rows[groups[rows] == group]
        if len(own) > _ROWS_PER_GROUP:
            own = np.sort(rng.choice(own, _ROWS_PER_GROUP, replace=False))
        chosen += own.tolist()
        if len(chosen) >= count:
            break
    return np.array(chosen[:count], dtype=np.int64)


def _read_features(detector: Detector, source: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The readable rows, their features (N, D) and their facts (N, F)."""
    read, features, facts = [], [], []
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    for batch in track(batches, len(batches), "Reference features, in batches"):
        pixels = []
        for row in batch.tolist():
            try:
                data = source.read(row)
                pixels.append(read_pixels(data, detector.preprocessing.size))
            except UnreadableImageError:
                continue
            read.append(row)
            facts.append(photo_facts(pixels[-1], upright_size(data)))
        if pixels:
            found = detector.logits_and_features(torch.stack(pixels))[1]
            features.append(found.numpy() if found is not None else np.empty((len(pixels), 0)))
    return np.array(read, dtype=np.int64), np.concatenate(features), np.array(facts)
