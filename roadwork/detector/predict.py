"""Predicts many photos in a stream that can be interrupted and resumed."""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from roadwork.core.errors import ConfigError, DataError
from roadwork.core.files import sha256_of
from roadwork.core.progress import new_progress
from roadwork.data.images import READER_VERSION, UnreadableImageError, upright_size
from roadwork.data.utils.exif import CameraMetadata, read_camera_metadata
from roadwork.detector.detector import Detector, Prediction
from roadwork.detector.familiarity import Familiarity, judge, photo_facts
from roadwork.detector.format import CONFIG_FILE
from roadwork.detector.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.detector.outputs import Record, Summary, known, shown_name, write_records
from roadwork.detector.photos import FoundPhotos, Photo
from roadwork.detector.resume import Partial, open_partial, partial_path
from roadwork.detector.views import combine_logits, read_views
from roadwork.models.processor import PROCESSOR_FILE

logger = logging.getLogger(__name__)

T = TypeVar("T")
S = TypeVar("S")

# Photos per thread decoded beyond the next batch, so that one slow photo does not block the others.
_AHEAD_PER_WORKER = 2


class ReadPhoto(NamedTuple):
    """A decoded photo, or the reason why it cannot be read.

    Attributes:
        photo: the source photo.
        pixels: (V, 3, S, S) uint8, one entry per view; None if unreadable.
        camera: position and time from EXIF.
        error: why the photo cannot be read; empty if it can.
        size: width and height of the upright photo; None if unreadable.
    """

    photo: Photo
    pixels: Tensor | None
    camera: CameraMetadata = CameraMetadata()
    error: str = ""
    size: tuple[int, int] | None = None


@dataclass
class FamiliaritySample:
    """The photos of a batch that are compared with the training photos.

    Attributes:
        positions: their positions among all photos of the output.
        features: (D,) of each photo read so far, if the network returns features.
        facts: of each photo read so far, see `photo_facts`.
    """

    positions: frozenset[int] = frozenset()
    features: list[np.ndarray] = field(default_factory=list)
    facts: list[tuple[float, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, detector: Detector, n: int) -> FamiliaritySample:
        """An even sample of `n` photos."""
        most = detector.reference.most if detector.reference else 0
        return cls(frozenset(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64).tolist()))

    def add(self, batch: Sequence[ReadPhoto], features: Tensor | None) -> None:
        """Notes the photos of a batch that are in the sample; `features` (B, D) are those of its readable photos."""
        readable = [read for read in batch if read.pixels is not None]
        for row, read in enumerate(readable):
            if read.photo.position in self.positions and read.pixels is not None and read.size is not None:
                when = read.photo.captured_at or read.camera.captured_at
                self.facts.append(photo_facts(read.pixels[0], read.size, when, position_of(read)))
                if features is not None:
                    self.features.append(features[row].numpy())

    def judge(self, detector: Detector) -> Familiarity:
        features = np.stack(self.features) if self.features else None
        return judge(detector.reference, features, np.array(self.facts))


def position_of(read: ReadPhoto) -> tuple[float, float]:
    """Latitude and longitude from the dataset's columns, else from the EXIF header."""
    return read.camera[:2] if np.isnan(read.photo.gps[0]) else read.photo.gps


def read_photo(photo: Photo, size: int, views: str) -> ReadPhoto:
    """Reads and decodes a photo.

    Args:
        photo: the photo to read.
        size: side of the network input, in pixels.
        views: as in `read_views`.
    """
    camera = CameraMetadata()
    try:
        data = photo.load()
        camera = read_camera_metadata(data)
        return ReadPhoto(photo, read_views(data, size, views), camera, size=upright_size(data))
    except (OSError, ValueError, UnreadableImageError) as error:  # ValueError: a null byte in the name
        return ReadPhoto(photo, None, camera, getattr(error, "strerror", None) or str(error))


def map_ahead(function: Callable[[T], S], items: Iterable[T], threads: int, ahead: int) -> Iterator[S]:
    """Yields `function(item)` for each item, in order, computed by a thread pool.

    Threads, not processes: decoding and resizing release the GIL, and pixels need no copy. Each thread uses one torch
    thread, or each would start one per core.

    Args:
        function: called in the threads.
        items: consumed in the caller's thread.
        threads: size of the pool.
        ahead: results computed in advance; this bounds the memory.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(threads, "decode", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        pending: deque[Future[S]] = deque(pool.submit(function, item) for item in islice(iterator, ahead))
        try:
            while pending:
                result = pending.popleft().result()
                with suppress(StopIteration):
                    pending.append(pool.submit(function, next(iterator)))
                yield result
                del result  # free it before the caller asks for the next one
        finally:
            for future in pending:
                future.cancel()


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction.

    Attributes:
        batch_size: images per forward pass.
        workers: decoding threads.
        views: test-time augmentation, one of `roadwork.detector.views.VIEWS`.
        coarsen_gps: decimals of rounded positions; None keeps them.
        estimate_prior: whether to adjust probabilities and decisions to the share of Roadwork in the photos.
    """

    batch_size: int
    workers: int
    views: str = "none"
    coarsen_gps: int | None = None
    estimate_prior: bool = False


def read_batches(
    found: FoundPhotos, wanted: np.ndarray, detector: Detector, options: PredictOptions
) -> Iterator[list[ReadPhoto]]:
    """Batches of decoded photos where `wanted`, (N,) bool, is true, in order, with bounded read-ahead."""
    read = partial(read_photo, size=detector.preprocessing.size, views=options.views)
    ahead = options.batch_size + _AHEAD_PER_WORKER * options.workers
    return in_batches(map_ahead(read, found.photos(wanted), options.workers, ahead), options.batch_size)


def predict_batch(
    detector: Detector, batch: Sequence[ReadPhoto], options: PredictOptions, sample: FamiliaritySample
) -> dict[int, Record]:
    """Predicts a batch: records by photo number. Its photos in `sample` are added there."""
    views = [read.pixels for read in batch if read.pixels is not None]
    predictions: Iterator[Prediction] = iter(())
    if views:
        parts = torch.split(torch.cat(views), options.batch_size)
        outputs = [detector.logits_and_features(part) for part in parts]
        logits = torch.cat([part for part, _ in outputs])
        features = [part for _, part in outputs if part is not None]
        sample.add(batch, torch.cat(features)[:: len(views[0])] if features else None)
        predictions = iter(detector.decide(detector.probabilities(combine_logits(logits, len(views[0])))))
    records = {}
    for read in batch:
        prediction = next(predictions) if read.pixels is not None else None
        latitude, longitude = _position(read, options.coarsen_gps)
        records[read.photo.position] = Record(
            key=read.photo.key,
            filename=shown_name(read.photo.name),
            label=prediction.label if prediction else None,
            probability=prediction.probability if prediction else None,
            abstain=prediction.abstain if prediction else None,
            latitude=known(latitude),
            longitude=known(longitude),
            captured_at=read.photo.captured_at or read.camera.captured_at or None,
            error=None if prediction else read.error,
        )
    return records


def _position(read: ReadPhoto, decimals: int | None) -> tuple[float, float]:
    """Latitude and longitude, rounded if asked for."""
    latitude, longitude = position_of(read)
    if decimals is not None:
        from roadwork.data.utils.privacy import round_positions  # noqa: PLC0415 -- pandas and h3 are slow to import

        latitude, longitude = round_positions(np.array([(latitude, longitude)]), decimals)[0].tolist()
    return latitude, longitude


class InterruptedPredictionError(Exception):
    """A prediction stopped on request; finished records are kept."""

    def __init__(self, n_done: int, n_photos: int) -> None:
        super().__init__(n_done, n_photos)
        self.n_done, self.n_photos = n_done, n_photos


def predict_to_file(
    model: Path,
    detector: Detector,
    found: FoundPhotos,
    out: Path,
    options: PredictOptions,
    *,
    sites: Path | None = None,
    overwrite: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Predicts all photos to `out`; continues where an earlier call was interrupted.

    Args:
        model: the exported folder; its files identify the model in partial results.
        detector: loaded from that folder.
        found: the photos.
        out: ends in .csv, .parquet or .geojson.
        options: batch size, workers, views, rounding.
        sites: where to write the roadwork sites, or None.
        overwrite: replace `out`, and partial results of another model or other options.
        should_stop: called between batches.

    Raises:
        ConfigError: the share of Roadwork cannot be estimated with these views.
        DataError: `out` exists, another process writes to it, or partial results are from another model; or the model
            has no scores to estimate the share of Roadwork.
        InterruptedPredictionError: `should_stop` returned True.
    """
    if options.estimate_prior:
        _check_prior_is_possible(model, detector, options)
    kept = partial_path(out)
    if not overwrite and not kept.exists():
        _refuse_existing(out, sites)
    made_by = {"model": fingerprint(model), "views": options.views, "coarsen_gps": options.coarsen_gps}
    with open_partial(kept, made_by | {"reader": READER_VERSION}, found.keys(), overwrite=overwrite) as unfinished:
        summary = _predict_missing(detector, found, unfinished, options, should_stop)
        facts = detector.facts
        records: Callable[[], Iterator[Record]] = unfinished.records
        about: dict[str, Any] = {"familiarity": summary.familiarity.as_dict()}
        if options.estimate_prior and facts.scores is not None:
            from roadwork.detector.prior import adjust_to_prior  # noqa: PLC0415 -- h3 and scipy are slow to import

            adjustment = adjust_to_prior(facts, facts.scores, unfinished.records(), summary.familiarity)
            records = lambda: adjustment.apply(unfinished.records())  # noqa: E731
            summary.prior_lines = adjustment.lines(facts)
            summary.facts = facts = adjustment.facts
            about["estimated_prior"] = adjustment.as_dict()
        about |= {name: value for name, value in asdict(facts).items() if name != "scores"}
        write_records(out, summary.count(records()), about | made_by)
        if sites is not None:
            from roadwork.detector.sites import write_prediction_sites  # noqa: PLC0415 -- pandas and scipy are slow

            summary.n_sites = write_prediction_sites(sites, records, facts.prior)
        kept.unlink()
    return summary


def _check_prior_is_possible(model: Path, detector: Detector, options: PredictOptions) -> None:
    if options.views != "none":
        raise ConfigError(
            f"--estimate-prior is used with --views {options.views}, but val_calib was scored with none. Omit one of "
            "them."
        )
    if detector.facts.scores is None:
        raise DataError(
            f"{model} has no scores of val_calib, which --estimate-prior needs: the run was not calibrated, or "
            "exported by an older version. Run `roadwork calibrate RUN`, and export it again."
        )


def fingerprint(model: Path) -> str:
    """SHA-256 prefixes of the files that determine a model's predictions."""
    names = (CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE, ONNX_FILE, f"{ONNX_FILE}.data")
    return " ".join(sha256_of(model / name)[:16] for name in names if (model / name).is_file())


def require_export(model: Path) -> None:
    """Checks that `model` is an exported folder, not a run.

    Raises:
        DataError: it is a run; the message has the export command.
    """
    if (model / "config.yaml").is_file() and not (model / CONFIG_FILE).is_file():
        raise DataError(
            f"{model} is a run, not an exported detector. Export it first: "
            f"roadwork export {model} --format hf --out DIR, and then roadwork predict DIR ..."
        )


def _refuse_existing(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and path.exists():
            raise DataError(f"{path} exists. Name another file, or replace it with --overwrite.")


def _predict_missing(
    detector: Detector,
    found: FoundPhotos,
    unfinished: Partial,
    options: PredictOptions,
    should_stop: Callable[[], bool],
) -> Summary:
    """Predicts the photos that `unfinished` lacks; returns their number, the time, and all photos' familiarity."""
    summary = Summary()
    is_done = unfinished.is_done
    n_done = int(is_done.sum())
    if unfinished.n_ignored:
        logger.info("Ignored %s earlier predictions of photos that are no longer in the inputs.", unfinished.n_ignored)
    if n_done:
        logger.info("%s of %s photos were predicted before; continuing.", f"{n_done:,}", f"{len(found):,}")
    sample = FamiliaritySample.of(detector, len(found))
    is_sampled = np.isin(np.arange(len(found)), list(sample.positions))
    started = time.perf_counter()
    with warnings.catch_warnings(), new_progress() as progress:
        warnings.simplefilter("ignore")  # Pillow warns about damaged headers; warning filters are process-wide
        for batch in read_batches(found, is_done & is_sampled, detector, options):  # the verdict is on all photos
            predict_batch(detector, batch, options, sample)
        task = progress.add_task("Predicting", total=len(found), completed=n_done)
        for batch in read_batches(found, ~is_done, detector, options):
            unfinished.append(predict_batch(detector, batch, options, sample))
            summary.n_predicted += len(batch)
            summary.seconds = time.perf_counter() - started
            speed = summary.n_predicted / summary.seconds
            progress.update(task, advance=len(batch), description=f"Predicting, {speed:,.1f} photos/s")
            if should_stop():
                raise InterruptedPredictionError(n_done + summary.n_predicted, len(found))
    summary.familiarity = sample.judge(detector)
    return summary
