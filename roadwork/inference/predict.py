"""Many photos through a detector into a file, in a stream that can be interrupted at any moment."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from roadwork.data.images import READER_VERSION
from roadwork.data.utils.privacy import grain_km
from roadwork.errors import DataError
from roadwork.export.facts import CONFIG_FILE
from roadwork.inference.detector import Detector
from roadwork.inference.judging import PredictOptions, judge_batch, read_batches
from roadwork.inference.networks import ONNX_FILE, WEIGHTS_FILE
from roadwork.inference.outputs import write_records
from roadwork.inference.photos import FoundPhotos
from roadwork.inference.resume import Partial, open_partial, partial_path
from roadwork.inference.site_rows import SITE_RADIUS_M, write_prediction_sites
from roadwork.inference.summary import Summary
from roadwork.models.processor import PROCESSOR_FILE
from roadwork.progress import new_progress
from roadwork.runs import sha256_of

logger = logging.getLogger(__name__)


class InterruptedPredictionError(Exception):
    """A prediction was asked to stop, and has; what is answered is kept."""

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
    """Answers for all photos in `out`; goes on where an earlier call was interrupted.

    Args:
        model: the exported folder, by whose files the answers of an earlier call are known as this model's.
        detector: of that folder.
        found: the photos.
        out: ends in .csv, .parquet or .geojson.
        options: how.
        sites: where to write the roadwork sites, or None.
        overwrite: replace `out`, and answers of another model or other options that were not finished.
        should_stop: is asked between batches.

    Raises:
        DataError: `out` is there already, or another process writes to it, or unfinished answers are of another model.
        InterruptedPredictionError: `should_stop` said so.
    """
    kept = partial_path(out)
    if not overwrite and not kept.exists():
        _refuse_existing(out, sites)
    made_by = {"model": fingerprint(model), "views": options.views, "coarsen_gps": options.coarsen_gps}
    with open_partial(kept, made_by | {"reader": READER_VERSION}, found.keys(), overwrite=overwrite) as unfinished:
        summary = _answer(detector, found, unfinished, options, should_stop)
        facts = asdict(detector.facts) | made_by
        write_records(out, summary.count(unfinished.records()), facts)
        if sites is not None:
            summary.n_sites = write_prediction_sites(sites, unfinished.records, detector.facts.prior)
        kept.unlink()
    return summary


def warn_of_coarse_sites(decimals: int | None) -> None:
    """Says so where positions are rounded to more than a site's radius."""
    if grain_km(decimals) * 1000 > SITE_RADIUS_M:
        logger.warning(
            "Positions are rounded to %s decimals, %.0f m: sites of %.0f m are then found on that grid.",
            decimals, grain_km(decimals) * 1000, SITE_RADIUS_M,
        )  # fmt: skip


def fingerprint(model: Path) -> str:
    """SHA-256 of what an exported folder's answers depend on."""
    names = (CONFIG_FILE, PROCESSOR_FILE, WEIGHTS_FILE, ONNX_FILE, f"{ONNX_FILE}.data")
    return " ".join(sha256_of(model / name)[:16] for name in names if (model / name).is_file())


def require_export(model: Path) -> None:
    """Refuses a run's folder, whose checkpoint is not yet a detector.

    Raises:
        DataError: with the command that makes one.
    """
    if (model / "config.yaml").is_file() and not (model / CONFIG_FILE).is_file():
        raise DataError(
            f"{model} is a run's folder; a detector is exported from it first: "
            f"roadwork export {model} --format hf --out DIR, and then roadwork predict DIR ..."
        )


def _refuse_existing(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and path.exists():
            raise DataError(f"{path} is there already. Name another file, or replace it with --overwrite.")


def _answer(
    detector: Detector,
    found: FoundPhotos,
    unfinished: Partial,
    options: PredictOptions,
    should_stop: Callable[[], bool],
) -> Summary:
    """Adds the records that `unfinished` lacks; says how many, and in what time."""
    summary = Summary()
    is_done = unfinished.is_done
    n_done = int(is_done.sum())
    if unfinished.n_left_out:
        logger.info("%s earlier answers are of photos that the inputs no longer name: left out.", unfinished.n_left_out)
    if n_done:
        logger.info("%s of %s photos were answered before; going on.", f"{n_done:,}", f"{len(found):,}")
    started = time.perf_counter()
    with warnings.catch_warnings(), new_progress() as progress:
        warnings.simplefilter("ignore")  # Pillow's, of damaged headers; set once, as filters are not a thread's own
        task = progress.add_task("Predicting", total=len(found), completed=n_done)
        for batch in read_batches(found, ~is_done, detector, options):
            unfinished.append(judge_batch(detector, batch, options))
            summary.n_answered += len(batch)
            summary.seconds = time.perf_counter() - started
            speed = summary.n_answered / summary.seconds
            progress.update(task, advance=len(batch), description=f"Predicting, {speed:,.1f} photos/s")
            if should_stop():
                raise InterruptedPredictionError(n_done + summary.n_answered, len(found))
    return summary
