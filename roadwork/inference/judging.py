"""From photos to records: decoded ahead, given to the network in batches, judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from roadwork.data.utils.privacy import coarsen
from roadwork.inference.detector import Detector, Prediction
from roadwork.inference.photos import FoundPhotos
from roadwork.inference.records import Record, known, shown_name
from roadwork.inference.stream import ReadPhoto, in_batches, map_ahead, read_photo
from roadwork.inference.views import combine_logits

# Photos that each thread may have begun beyond the next batch: one that is slow does not hold up the others.
_AHEAD_PER_WORKER = 2


@dataclass(frozen=True)
class PredictOptions:
    """How photos are predicted.

    Attributes:
        batch_size: pictures that the network gets at once.
        workers: threads that read and decode.
        views: as of `roadwork.inference.views`.
        coarsen_gps: decimals to which positions are rounded; None keeps them.
    """

    batch_size: int
    workers: int
    views: str = "none"
    coarsen_gps: int | None = None


def read_batches(
    found: FoundPhotos, wanted: np.ndarray, detector: Detector, options: PredictOptions
) -> Iterator[list[ReadPhoto]]:
    """The photos where `wanted`, (N,) bool, is true, decoded in order; a bounded number of them waits."""
    read = partial(read_photo, size=detector.preprocessing.size, views=options.views)
    ahead = options.batch_size + _AHEAD_PER_WORKER * options.workers
    return in_batches(map_ahead(read, found.photos(wanted), options.workers, ahead), options.batch_size)


def judge_batch(detector: Detector, batch: Sequence[ReadPhoto], options: PredictOptions) -> dict[int, Record]:
    """The records of a batch, by the photos' positions."""
    views = [read.pixels for read in batch if read.pixels is not None]
    answers: Iterator[Prediction] = iter(())
    if views:
        parts = torch.split(torch.cat(views), options.batch_size)
        logits = torch.cat([detector.logits(part) for part in parts])
        answers = iter(detector.judge(detector.probabilities(combine_logits(logits, len(views[0])))))
    records = {}
    for read in batch:
        answer = next(answers) if read.pixels is not None else None
        latitude, longitude = coarsen(np.array([_position(read)]), options.coarsen_gps)[0].tolist()
        records[read.photo.position] = Record(
            key=read.photo.key,
            filename=shown_name(read.photo.name),
            label=answer.label if answer else None,
            probability=answer.probability if answer else None,
            abstain=answer.abstain if answer else None,
            latitude=known(latitude),
            longitude=known(longitude),
            captured_at=read.photo.captured_at or read.camera.captured_at or None,
            error=None if answer else read.error,
        )
    return records


def _position(read: ReadPhoto) -> tuple[float, float]:
    """That of the dataset's columns, else the camera's."""
    return read.camera[:2] if np.isnan(read.photo.gps[0]) else read.photo.gps
