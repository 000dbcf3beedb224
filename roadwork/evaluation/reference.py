"""Builds the reference sample of training photos' features, with which batches of photos are compared."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roadwork.core.errors import DataError, RoadworkError
from roadwork.core.files import sha256_of
from roadwork.core.progress import track
from roadwork.data.images import READER_VERSION, ImageSource, UnreadableImageError, read_pixels, upright_size
from roadwork.data.table import SampleTable, column_text
from roadwork.data.utils.exif import read_camera_metadata
from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import FACTS, Reference, coarse_places, count_hours, photo_facts
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


def write_reference(
    run: Run,
    folder: Path,
    detector: Detector,
    result: dict[str, Any] | None,
    n_photos: int,
    *,
    with_places: bool = False,
) -> None:
    """Writes the reference of a run into its export; warns and writes none if its data cannot be used.

    Args:
        run: the exported run.
        folder: the export.
        detector: loaded from it, so that features are computed as in prediction.
        result: the run's result on val_test; None if it was not evaluated.
        n_photos: the most photos to store; 0 writes no reference.
        with_places: whether to store the places of all training photos, on a coarse grid.
    """
    if not n_photos:
        return
    try:
        reference = read_kept(run, result, n_photos) or build_reference(run, detector, result, n_photos)
    except RoadworkError as error:
        logger.warning("The export cannot judge how familiar a batch of photos is: %s", error)
        return
    (reference if with_places else reference.without_places()).write(folder)


def keep_reference(run: Run, detector: Detector, result: dict[str, Any] | None) -> Reference:
    """The reference of a run, built once and kept in the run folder; arguments and errors as of `build_reference`."""
    kept = read_kept(run, result, REFERENCE_PHOTOS)
    if kept is not None:
        return kept
    reference, folder = build_reference(run, detector, result), _kept_folder(run, REFERENCE_PHOTOS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        reference.write(folder)
    return reference


def read_kept(run: Run, result: dict[str, Any] | None, n_photos: int) -> Reference | None:
    """The reference that `keep_reference` wrote, with today's result on val_test; None if there is none."""
    folder = _kept_folder(run, n_photos)
    kept = None if folder is None else Reference.read(folder)
    return None if kept is None else replace(kept, val_test=_result_facts(result))


def _kept_folder(run: Run, n_photos: int) -> Path | None:
    """Named after all that decides its content; None for an ensemble, which has no checkpoint of its own."""
    if not run.best_checkpoint.is_file():
        return None
    return run.reference_folder / f"{sha256_of(run.best_checkpoint)[:16]}-{n_photos}-{READER_VERSION}"


def _result_facts(result: dict[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (result or {}).items() if key in _RESULTS}


def build_reference(
    run: Run, detector: Detector, result: dict[str, Any] | None, n_photos: int = REFERENCE_PHOTOS
) -> Reference:
    """The reference of a run, with places; arguments as of `write_reference`.

    Raises:
        DataError: the run's data or its features cannot be used.
    """
    if not run.splits_file.is_file():
        raise DataError(f"{run.folder} has no {run.splits_file.name}.")
    data = open_run_data(run.folder)
    splits, names = data.split_names.copy(), data.groups.names
    splits[list(data.ledger.reasons)] = ""
    # Training changes the features of the photos that it fits. A frozen backbone has seen none of them.
    fitted = (splits == TRAIN_SPLIT) & (not data.settings.training.freeze_backbone)
    unseen = np.isin(splits, (TRAIN_SPLIT, *VALIDATION_SPLITS)) & ~fitted
    probe = detector.logits_and_features(torch.zeros(1, 3, detector.preprocessing.size, detector.preprocessing.size))[1]
    if probe is None:
        raise DataError("The network does not return features.")
    places = coarse_places(data.table.gps[np.isin(splits, (TRAIN_SPLIT, *VALIDATION_SPLITS))])
    n_photos = min(n_photos, (_MAX_BYTES - places.nbytes) // (2 * probe.shape[1] + 4 * 8))
    rng = np.random.default_rng(0)
    chosen = _sample_groups(unseen, names, n_photos // 2 if fitted.any() else n_photos, rng)
    chosen = np.concatenate([chosen, _sample_groups(fitted, names, n_photos - len(chosen), rng)])
    times = times_of(data.table, data.settings.data.splitting.time_column)
    rows, features, facts = read_features(detector, data.source, chosen, times, data.table.gps)
    # The order of the rows is random, so a group's number says nothing about its name or place.
    order = rng.permutation(len(rows))
    rows, features, facts = rows[order], features[order], facts[order]
    groups = np.unique(names[rows].astype(str), return_inverse=True)[1]
    groups = rng.permutation(groups.max(initial=0) + 1)[groups]
    features = features.astype(np.float16).astype(np.float32)  # as stored
    sizes, null = null_distribution(features, groups, unseen[rows])
    return Reference(
        features,
        groups,
        facts[:, : len(FACTS)].astype(np.float32),
        sizes,
        null.astype(np.float32),
        _result_facts(result),
        count_hours(facts[:, len(FACTS)]),
        places,
    )


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


def times_of(table: SampleTable, column: str) -> np.ndarray:
    """(N,) time of each row in a column as text; empty where unknown."""
    return column_text(table.slices[column]) if column in table.slices else np.full(len(table), "", dtype=object)


def read_features(
    detector: Detector, source: ImageSource, rows: np.ndarray, times: np.ndarray, gps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The readable rows, their features (R, D) and their facts (R, F).

    Args:
        detector: its network.
        source: the images of a table of N rows.
        rows: the rows to read.
        times: (N,) from the table; empty means that of the photo.
        gps: (N, 2) from the table; NaN means that of the photo.
    """
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
            camera = read_camera_metadata(data)
            place = camera[:2] if np.isnan(gps[row, 0]) else (float(gps[row, 0]), float(gps[row, 1]))
            facts.append(photo_facts(pixels[-1], upright_size(data), times[row] or camera.captured_at, place))
        if pixels:
            found = detector.logits_and_features(torch.stack(pixels))[1]
            features.append(found.numpy() if found is not None else np.empty((len(pixels), 0)))
    return np.array(read, dtype=np.int64), np.concatenate(features or [np.empty((0, 0))]), np.array(facts)
