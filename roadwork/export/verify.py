"""Verifies that an exported folder decides as its run does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
from transformers.utils import is_torchvision_available

from roadwork.core.errors import ConfigError, DataError
from roadwork.core.progress import track
from roadwork.data.images import UnreadableImageError
from roadwork.data.open import open_dataset
from roadwork.detector.detector import ROADWORK, Detector
from roadwork.detector.folding import read_calibration
from roadwork.detector.format import ExportFacts
from roadwork.detector.networks import WEIGHTS_FILE
from roadwork.export.consumer import (
    FAILED,
    SKIPPED,
    ContractCheck,
    check_environment,
    check_files,
    check_head,
    check_latency,
    check_sigmoid,
    loading_failed,
    run_consumer,
)
from roadwork.export.parity import PROBABILITY_LIMIT, TIE, Comparison, compare
from roadwork.export.replay import checked_replay, find_files, folded_logits, write_large_photo
from roadwork.metrics.decision import probability, unfold_score
from roadwork.metrics.predictions import predicted_margins, read_predictions
from roadwork.models.architecture import register_networks
from roadwork.models.build import without_transformers_report
from roadwork.runs.run import Run
from roadwork.settings.sampling import VALIDATION_SPLITS

CONSUMERS = ("streetvision",)

# transformers resizes the fully decoded photo; we resize one that the JPEG decoder has already reduced. The pixels
# differ by fractions of a grey level, as between two JPEG qualities. This can change decisions this near to the
# threshold. A wrong size, crop, normalisation or threshold changes the probabilities of many photos by more.
PIPELINE_TIE = 0.03
LATENCY_CALLS = 5
NO_TORCHVISION = ContractCheck(
    "torchvision backend",
    SKIPPED,
    "not compared, because torchvision is not installed; with it, transformers resizes by torchvision",
    "the decisions of the detector",
    "to compare, `pip install roadwork-vision[torchvision]`, with the torchvision that fits your torch",
)


def image_backends() -> list[str]:
    """The image backends of transformers that are installed here; transformers chooses the last one by default."""
    return ["pil", "torchvision"] if is_torchvision_available() else ["pil"]


def pipeline_outputs(folder: Path, photos: Sequence[Path], backend: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of Roadwork, their log-odds, and seconds from file to score, each (N,); on the CPU, one photo at a time.

    Raises:
        DataError: no label is named Roadwork.
    """
    register_networks()
    with without_transformers_report():
        classify = pipeline(
            "image-classification",
            model=AutoModelForImageClassification.from_pretrained(folder, local_files_only=True),
            image_processor=AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend=backend),
            device="cpu",
        )
    scores, seconds = [], []
    for photo in track(photos, len(photos), f"transformers' pipeline, {backend}"):
        started = time.perf_counter()
        with Image.open(photo) as image:
            by_label = {row["label"]: row["score"] for row in classify(image)}
        seconds.append(time.perf_counter() - started)
        if ROADWORK not in by_label:
            raise DataError(f"{folder} has no label {ROADWORK}, only {', '.join(by_label)}. Export again.")
        scores.append([by_label.pop(ROADWORK), *by_label.values()])
    by_photo = np.array(scores, dtype=np.float64)
    # The smaller of two scores is exact where the larger one rounds to 1.
    log_scores = np.log(by_photo.clip(min=np.finfo(np.float32).tiny))
    return by_photo[:, 0], log_scores[:, 0] - log_scores[:, 1], np.array(seconds)


def compare_with_run(detector: Detector, run: Path, *, limit_rows: int, tie: float, limit: float) -> Comparison:
    """Compares the detector with the run's predictions of `val_select` and `val_calib`; `val_test` is not read.

    Args:
        detector: the exported detector.
        run: folder of an evaluated run.
        limit_rows: number of rows, evenly sampled; 0: all.
        tie: see `Comparison`.
        limit: see `Comparison`.

    Raises:
        DataError: the run was not evaluated, its data or calibration has changed, or a photo is missing.
    """
    facts = read_calibration(Run(run)) or ExportFacts()
    exported = detector.facts
    if (facts.temperature, facts.threshold) != (exported.temperature, exported.threshold):
        raise DataError(
            f"The folder was exported with temperature {exported.temperature:.6g} and threshold "
            f"{exported.threshold:.6g}; {run} now has {facts.temperature:.6g} and {facts.threshold:.6g}. "
            "Export again, or name the run that was exported."
        )
    frame = read_predictions(Run(run).predictions_file)
    frame = frame[frame["split"].isin(VALIDATION_SPLITS)]
    if frame.empty:
        raise DataError(f"{Run(run).predictions_file} has no row of {' or '.join(VALIDATION_SPLITS)} to replay.")
    if 0 < limit_rows < len(frame):
        frame = frame.iloc[np.unique(np.linspace(0, len(frame) - 1, limit_rows).astype(int))]
    photos = _read_photos(run, frame["id"].tolist())
    return compare(
        "Detector against the run's predictions",
        frame["id"].tolist(),
        probability(predicted_margins(frame), facts.temperature),
        detector.probabilities(folded_logits(detector, photos)),
        threshold=facts.threshold,
        tie=tie,
        limit=limit,
    )


def _read_photos(run: Path, ids: list[str]) -> list[bytes]:
    dataset = open_dataset(Run(run).read_settings())
    table, source = dataset.table, dataset.source
    if Run(run).read_manifest().get("data_fingerprint") not in (None, table.fingerprint()):
        raise DataError(
            f"{table.notes[0]} {run} was trained on other data: rows, labels, positions or sequences have changed. "
            "Restore the data, or omit --run."
        )
    rows = {name: row for row, name in enumerate(table.ids.tolist())}
    try:
        return [source.read(rows[name]) for name in ids]
    except (KeyError, UnreadableImageError) as error:
        raise DataError(f"A photo of {run} is missing from its data: {error}. Restore it.") from error


@dataclass(frozen=True)
class VerifyOptions:
    """Options of a verification.

    Attributes:
        photos: files and folders to compare on, instead of the folder's own photos.
        run: the exported run, whose validation rows are also compared.
        run_rows: number of these rows; 0: all.
        consumer: the consumer whose contract is checked; None: no contract.
        consumer_python: a Python interpreter of the consumer's environment.
    """

    photos: Sequence[Path] = ()
    run: Path | None = None
    run_rows: int = 200
    consumer: str | None = None
    consumer_python: Path | None = None

    def __post_init__(self) -> None:
        if self.consumer is not None and self.consumer not in CONSUMERS:
            raise ConfigError(f"--consumer is {self.consumer!r}; allowed: {', '.join(CONSUMERS)}.")
        if self.run_rows < 0:
            raise ConfigError(f"--limit is {self.run_rows}; it must be a positive number of rows, or 0 for all.")


@dataclass
class Verification:
    """The comparisons of decisions and the checks of a contract."""

    comparisons: list[Comparison] = field(default_factory=list)
    checks: list[ContractCheck] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether no decision changed and no check failed."""
        return all(c.is_right for c in self.comparisons) and all(c.status != FAILED for c in self.checks)

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
            "checks": [check.as_dict() for check in self.checks],
        }


def verify_export(folder: Path, options: VerifyOptions) -> Verification:
    """Compares an exported folder with its run, and checks the contract of its consumer, on the CPU.

    Raises:
        DataError: the folder, its replay, a photo or the run is unusable.
        ConfigError: the consumer's interpreter cannot be run.
    """
    found = Verification()
    if options.consumer:
        found.checks += check_files(folder)
    try:
        _verify_outputs(folder, options, found)
    except DataError as error:
        if not options.consumer:
            raise
        found.checks.append(loading_failed(str(error)))  # an earlier check may have the cause
    return found


def _verify_outputs(folder: Path, options: VerifyOptions, found: Verification) -> None:
    detector = Detector.load(folder, device="cpu")
    photos, logits = _replay(folder, detector, options, found)
    if options.run is not None:
        found.comparisons.append(
            compare_with_run(detector, options.run, limit_rows=options.run_rows, tie=TIE, limit=PROBABILITY_LIMIT)
        )
    if options.consumer:
        found.checks += [check_head(detector), check_sigmoid(logits)]
    # Pipelines cannot read ONNX.
    if (folder / WEIGHTS_FILE).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            photos, logits = _add_large_photos(detector, photos, logits, Path(scratch))
            _compare_pipelines(folder, photos, logits, detector, options=options, found=found)


def _add_large_photos(
    detector: Detector, photos: list[Path], logits: Tensor, scratch: Path
) -> tuple[list[Path], Tensor]:
    """Also the first photo of each decision enlarged to 12 megapixels, as phones take them, and the logits (N, 2)."""
    decisions = logits.argmax(1).tolist()
    chosen = [photos[decisions.index(decision)] for decision in sorted(set(decisions))]
    large = [scratch / f"12-megapixel-{photo.stem}.jpg" for photo in chosen]
    for photo, path in zip(chosen, large, strict=True):
        write_large_photo(photo, path)
    return [*photos, *large], torch.cat([logits, folded_logits(detector, large)])


def _replay(folder: Path, detector: Detector, options: VerifyOptions, found: Verification) -> tuple[list[Path], Tensor]:
    """The photos, and the detector's folded logits (N, 2); the folder's own photos are compared with the run."""
    if options.photos:
        photos = find_files(options.photos)
        return photos, folded_logits(detector, photos)
    replay = checked_replay(folder)
    photos = [photo.file for photo in replay]
    logits = folded_logits(detector, photos)
    found.comparisons.append(
        compare(
            "Detector against the run, on the folder's own photos",
            [photo.name for photo in photos],
            np.array([photo.probability for photo in replay]),
            detector.probabilities(logits),
            threshold=detector.facts.threshold,
            tie=TIE,
            limit=PROBABILITY_LIMIT,
        )
    )
    return photos, logits


def _compare_pipelines(
    folder: Path, photos: list[Path], logits: Tensor, detector: Detector, *, options: VerifyOptions, found: Verification
) -> None:
    """Compares the pipelines of this transformers and of the consumer with the detector's folded logits (N, 2)."""
    timed = [*photos, *photos[-1:] * (LATENCY_CALLS if options.consumer else 0)]  # the last photo is a large one
    n, threshold = len(photos), detector.facts.threshold
    results: list[tuple[str, str, np.ndarray, np.ndarray | None, np.ndarray]] = []
    for backend in image_backends():
        name = f"transformers' pipeline, backend {backend}"
        results.append((name, name, *pipeline_outputs(folder, timed, backend)))
    if len(results) == 1:
        found.checks.append(NO_TORCHVISION)
    if options.consumer_python is not None:
        output = run_consumer(options.consumer_python, [(folder, timed)])[0]
        found.checks.append(check_environment(output))
        if output.error is None:
            name = f"the pipeline of transformers {output.transformers}"
            results.append((name, "the consumer's environment", output.scores, None, output.seconds))
    ours, odds = detector.probabilities(logits), (logits[:, 1] - logits[:, 0]).double().numpy()
    for name, where, scores, found_odds, seconds in results:
        comparison = compare(
            f"Detector against {name}",
            [str(photo) for photo in photos],
            ours,
            unfold_score(scores[:n], threshold),
            threshold=threshold,
            tie=PIPELINE_TIE,
        )
        if found_odds is not None:
            comparison = replace(comparison, max_logit_difference=float(np.abs(odds - found_odds[:n]).max()))
        found.comparisons.append(comparison)
        if options.consumer:
            found.checks.append(check_latency(seconds[n:], where))
