"""Finds the rows of another dataset that a detector has seen in training.

Training rows are those of `train`, `val_select` and `val_calib`. A row is seen if a training row has its id, its
pixels, its sequence, a near-duplicate image, or a position within the splitting buffer. Photos of the run's `val_test`
are found, too: judging them would open `val_test` without counting it.

An export can store these facts in `training_rows.npz`. Ids, pixels and sequences are hashed with a salt; a reader can
test a photo that they have, but cannot list the photos. Perceptual hashes and 8 x 8 grey thumbnails stay readable,
because they are compared by distance. Exact positions are never stored.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from roadwork.core.errors import DataError
from roadwork.core.files import atomic_path
from roadwork.data.grouping.near_duplicates import (
    MIN_CONTRAST,
    NEAR_DUPLICATE_BITS,
    THUMBNAIL_SIZE,
    ImageHashes,
    find_near_duplicates,
)
from roadwork.data.grouping.proximity import component_labels
from roadwork.data.mixed_datasets import SOURCE
from roadwork.data.open import hash_images, open_dataset
from roadwork.data.splitting.splits import read_splits
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import PositionTree
from roadwork.data.utils.privacy import round_positions, rounding_step_km
from roadwork.evaluation.evaluate import check_same_data
from roadwork.runs.run import Run
from roadwork.settings import Settings
from roadwork.settings.sampling import TEST_SPLIT

TRAINING_ROWS_FILE = "training_rows.npz"
_VERSION = 1
_STORED = 8  # pixels of a stored thumbnail's side
_ARRAYS = ("ids", "pixels", "sequences", "hashes", "thumbnails", "known", "gps", "is_test")

# Why a row is excluded, in order of precedence.
ID, PIXELS, NEAR_DUPLICATE, SEQUENCE, DISTANCE, TEST_ROW = (
    "same id", "same pixels", "near-duplicate", "same sequence", "within the buffer", TEST_SPLIT
)  # fmt: skip
REASONS = (ID, PIXELS, NEAR_DUPLICATE, SEQUENCE, DISTANCE, TEST_ROW)


@dataclass(frozen=True)
class TrainingRows:
    """What identifies the N rows that a detector was trained on or tested on, training rows first.

    Attributes:
        salt: of the hashes.
        ids: (N,) uint64 hashes.
        pixels: (N,) uint64 hashes of the small grey image; 0 if unreadable.
        sequences: (N,) uint64 hashes; 0 without a sequence.
        hashes: (N,) uint64 perceptual hashes.
        thumbnails: (N, 64) uint8 grey pixels.
        known: (N,) bool, False if the image was unreadable.
        gps: (N, 2) latitude, longitude in degrees, NaN where missing; (0, 2) if positions are not stored.
        is_test: (N,) bool, rows of `val_test`.
        buffer_km: rows closer than this to a training row count as seen.
        filenames: (N,) of a run's rows; empty where read from an export.
    """

    salt: bytes
    ids: np.ndarray
    pixels: np.ndarray
    sequences: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    known: np.ndarray
    gps: np.ndarray
    is_test: np.ndarray
    buffer_km: float
    filenames: np.ndarray

    @classmethod
    def of_run(cls, run: Run, settings: Settings) -> Self:
        """The rows of a run with these settings, from its data.

        Raises:
            DataError: the data is not there, or has changed since the training.
            SplitError: the run's splits do not fit its data.
        """
        data = settings.data
        if data.mode == "local" and not Path(data.root).is_dir():  # never makes the demo data
            raise DataError(f"The training data is not at {data.root}, seen from {Path.cwd()}.")
        dataset = open_dataset(settings)
        table = dataset.table
        check_same_data(table, run.read_manifest())
        splits = read_splits(run.splits_file, table, data.class_names).names_by_row(table)
        rows = np.flatnonzero(splits != "")
        rows = rows[np.argsort(splits[rows] == TEST_SPLIT, kind="stable")]
        images = _take(hash_images(data, table, dataset.source), rows)
        table, salt = table.take(rows), secrets.token_bytes(16)
        return cls(
            salt=salt,
            ids=_hash_texts(salt, _own_names(table, table.ids)),
            pixels=_hash_pixels(salt, images),
            sequences=_hash_texts(salt, _own_names(table, table.sequence_ids)),
            hashes=images.hashes,
            thumbnails=_shrink(images.thumbnails),
            known=images.known,
            gps=table.gps,
            is_test=splits[rows] == TEST_SPLIT,
            buffer_km=data.splitting.buffer_km,
            filenames=table.filenames,
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """The rows that an export has stored.

        Raises:
            DataError: the file is missing or damaged.
        """
        if not path.is_file():
            raise DataError(
                f"The folder has no {path.name}. Export the run again with --training-rows, or evaluate the run itself."
            )
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
                if content["version"] != _VERSION:
                    raise DataError(f"{path} has version {content['version']}; this roadwork reads {_VERSION}.")
                arrays = {name: content[name] for name in _ARRAYS}
                salt, buffer_km = content["salt"].tobytes(), float(content["buffer_km"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged ({error}). Export the run again with --training-rows.") from error
        return cls(salt=salt, buffer_km=buffer_km, filenames=np.full(len(arrays["ids"]), "", dtype=object), **arrays)

    def write(self, path: Path, coarsen_gps: int | None) -> None:
        """Writes `training_rows.npz` for an export.

        Args:
            path: the file.
            coarsen_gps: decimals of the stored positions, as in `privacy.coarsen_gps`; None stores no position.
        """
        gps, buffer_km = self.gps, self.buffer_km
        if coarsen_gps is not None:
            gps = round_positions(gps, coarsen_gps)
            buffer_km += rounding_step_km(coarsen_gps) / math.sqrt(2)  # the farthest that rounding moves a position
        elif not np.isnan(gps).all():
            gps = np.empty((0, 2))
        arrays = {name: getattr(self, name) for name in _ARRAYS} | {"gps": gps}
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                version=np.int64(_VERSION),
                salt=np.frombuffer(self.salt, np.uint8),
                buffer_km=np.float64(buffer_km),
                **arrays,
            )

    @property
    def n_training(self) -> int:
        """Number of training rows; they come first."""
        return int((~self.is_test).sum())

    @property
    def not_checked(self) -> tuple[str, ...]:
        """What cannot be checked, one sentence each."""
        if len(self.gps) or not len(self.ids) or self.buffer_km <= 0:
            return ()
        return (
            f"The export stores no positions, so rows within {self.buffer_km:g} km of training were not looked for.",
        )


@dataclass(frozen=True)
class SeenRows:
    """The rows of a dataset that are excluded.

    Attributes:
        reasons: (M,) one of `REASONS`, empty for a row to judge.
        like: (M,) the training row that it matches, -1 for a row to judge.
        n_other_photos: rows kept although a training row has their id, because it shows another photo.
    """

    reasons: np.ndarray
    like: np.ndarray
    n_other_photos: int = 0

    @classmethod
    def none(cls, n: int) -> Self:
        """No row of `n` is excluded."""
        return cls(np.full(n, "", dtype=object), np.full(n, -1))


def find_seen(training: TrainingRows, table: SampleTable, images: ImageHashes) -> SeenRows:
    """The rows of a dataset that training has seen, each with its first reason.

    An equal id alone is no proof, because many datasets have a photo 0001.jpg. Rows whose images clearly differ are
    kept.

    Args:
        training: the rows of the detector.
        table: M rows of the other dataset.
        images: their hashes.
    """
    same_id = _lookup(training.ids, _hash_texts(training.salt, table.ids))
    differs = _shows_another_photo(training, same_id, images)
    n_training = training.n_training
    matches = {
        ID: np.where(differs, -1, same_id),
        PIXELS: _lookup(training.pixels, _hash_pixels(training.salt, images)),
        NEAR_DUPLICATE: _find_alike(training, images),
        SEQUENCE: _lookup(training.sequences[:n_training], _hash_texts(training.salt, table.sequence_ids)),
        DISTANCE: _find_near(training, table.gps),
    }
    reasons, like = np.full(len(table), "", dtype=object), np.full(len(table), -1)
    for reason, found in matches.items():
        new = (found >= 0) & (like < 0)
        reasons[new], like[new] = reason, found[new]
    reasons[(like >= 0) & training.is_test[like]] = TEST_ROW
    return SeenRows(reasons, like, int((differs & (like < 0)).sum()))


def _find_alike(training: TrainingRows, images: ImageHashes) -> np.ndarray:
    """(M,) the first row of `training` that shows the scene of each image, -1 if none does."""
    n = len(training.ids)
    thumbnails = np.concatenate([training.thumbnails, _shrink(images.thumbnails)])
    both = ImageHashes(
        keys=np.ones(n + len(images.hashes), np.uint64),
        hashes=np.concatenate([training.hashes, images.hashes]),
        thumbnails=_enlarge(thumbnails),
        known=np.concatenate([training.known, images.known]),
    )
    numbers = np.array([f"{row:09d}" for row in range(len(both.keys))], dtype=object)
    empty = np.full(len(numbers), "", dtype=object)
    table = SampleTable(
        ids=numbers,
        filenames=numbers,
        labels=np.zeros(len(numbers), np.int64),
        gps=np.full((len(numbers), 2), np.nan),
        sequence_ids=empty,
        slices=pd.DataFrame(index=range(len(numbers))),
    )
    scenes = component_labels(len(numbers), find_near_duplicates(table, both)).astype(np.uint64) + np.uint64(1)
    return _lookup(scenes[:n], scenes[n:])


def _find_near(training: TrainingRows, gps: np.ndarray) -> np.ndarray:
    """(M,) the nearest training row within the buffer, -1 if there is none."""
    found = np.full(len(gps), -1)
    own = training.gps[: training.n_training]
    rows, known = np.flatnonzero(~np.isnan(own).any(axis=1)), np.flatnonzero(~np.isnan(gps).any(axis=1))
    if len(rows) and len(known):
        km, nearest = PositionTree(own[rows]).nearest(gps[known])
        found[known] = np.where(km < training.buffer_km, rows[nearest], -1)
    return found


def _shows_another_photo(training: TrainingRows, like: np.ndarray, images: ImageHashes) -> np.ndarray:
    """(M,) bool, whether the image of a row and that of the row `like` it in training are clearly different."""
    contrast = _shrink(images.thumbnails).std(axis=1)
    comparable = (like >= 0) & images.known & training.known[like] & (contrast >= MIN_CONTRAST)
    comparable &= training.thumbnails[like].std(axis=1) >= MIN_CONTRAST
    differs: np.ndarray = comparable & (np.bitwise_count(training.hashes[like] ^ images.hashes) > NEAR_DUPLICATE_BITS)
    return differs


def _lookup(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(M,) index of the first of `known` (N,) that equals each of `wanted` (M,); -1 for 0 and for none."""
    if not len(known):
        return np.full(len(wanted), -1)
    values, first = np.unique(known, return_index=True)
    place = np.searchsorted(values, wanted).clip(max=len(values) - 1)
    return np.where((values[place] == wanted) & (wanted != 0), first[place], -1)


def _hash_texts(salt: bytes, texts: Iterable[object]) -> np.ndarray:
    """(N,) uint64 salted hash of each text; 0 for an empty one."""
    digests = (hashlib.sha256(salt + str(text).encode()).digest()[:8] if text != "" else bytes(8) for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)


def _hash_pixels(salt: bytes, images: ImageHashes) -> np.ndarray:
    """(N,) uint64 salted hash of perceptual hash and grey thumbnail; 0 for an unreadable image."""
    digests = (
        hashlib.sha256(salt + number.tobytes() + thumbnail.tobytes()).digest()[:8] if known else bytes(8)
        for number, thumbnail, known in zip(images.hashes, images.thumbnails, images.known, strict=True)
    )
    return np.frombuffer(b"".join(digests), np.uint64)


def _own_names(table: SampleTable, values: np.ndarray) -> np.ndarray:
    """(N,) ids or sequences as their own dataset has them: rows of `data.extra` lose the dataset's name."""
    if not table.is_extra.any():
        return values
    return np.array(
        [
            str(value).removeprefix(f"{source}/") if is_extra else value
            for value, source, is_extra in zip(values, table.slices[SOURCE], table.is_extra, strict=True)
        ],
        dtype=object,
    )


def _take(images: ImageHashes, rows: np.ndarray) -> ImageHashes:
    return replace(
        images,
        keys=images.keys[rows],
        hashes=images.hashes[rows],
        thumbnails=images.thumbnails[rows],
        known=images.known[rows],
    )


def _shrink(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 64) uint8, thumbnails (N, 256) at half the size."""
    step = THUMBNAIL_SIZE // _STORED
    blocks = thumbnails.reshape(-1, _STORED, step, _STORED, step)
    small: np.ndarray = blocks.mean(axis=(2, 4)).round().astype(np.uint8).reshape(-1, _STORED**2)
    return small


def _enlarge(thumbnails: np.ndarray) -> np.ndarray:
    """(N, 256) uint8, thumbnails (N, 64) at twice the size."""
    step = THUMBNAIL_SIZE // _STORED
    small = thumbnails.reshape(-1, _STORED, _STORED)
    large: np.ndarray = small.repeat(step, axis=1).repeat(step, axis=2).reshape(-1, THUMBNAIL_SIZE**2)
    return large
