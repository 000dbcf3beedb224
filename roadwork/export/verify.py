"""Whether an exported folder decides as its run did, wherever it is loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from roadwork.errors import ConfigError, DataError
from roadwork.export.consumer import FAILED, ContractCheck, check_files
from roadwork.export.parity import PROBABILITY_LIMIT, TIE
from roadwork.export.verify_behaviour import check_head, check_latency, check_sigmoid, unanswered
from roadwork.export.verify_comparison import Comparison, calibrated_from_score, compare
from roadwork.export.verify_consumer import ask_consumer, check_answer
from roadwork.export.verify_photos import checked_replay, find_files, folded_logits, write_large_photo
from roadwork.export.verify_pipeline import pipeline_scores
from roadwork.export.verify_run import compare_with_run
from roadwork.inference.detector import Detector
from roadwork.inference.networks import WEIGHTS_FILE

CONSUMERS = ("streetvision",)
# transformers resizes the whole decode; we resize one that the JPEG decoder has already halved, to within a fraction of
# a grey level. Photos this near to the threshold are decided by such a fraction, and another JPEG quality would move
# them as far: no consumer can rely on them. A wrong size, crop, normalisation or threshold moves many photos by more.
PIPELINE_TIE = 0.03
LATENCY_CALLS = 5


@dataclass(frozen=True)
class VerifyOptions:
    """What is to be verified beside the replay.

    Attributes:
        photos: files and folders to replay instead of the folder's own photos.
        run: the run that was exported; its validation rows are replayed too.
        run_rows: how many of them, 0: all.
        consumer: whose contract is checked; None: nobody's.
        consumer_python: an interpreter of the consumer's own environment.
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
            raise ConfigError(f"--limit is {self.run_rows}; it must be a number of rows, or 0 for all.")


@dataclass
class Verification:
    """Comparisons of decisions, and checks of a contract."""

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
    """Replays photos through an exported folder, and checks the contract of its consumer; all on the CPU.

    Raises:
        DataError: the folder, its replay, a photo or the run cannot be used.
        ConfigError: the consumer's interpreter cannot be run.
    """
    found = Verification()
    if options.consumer:
        found.checks += check_files(folder)
    try:
        _verify_answers(folder, options, found)
    except DataError as error:
        if not options.consumer:
            raise
        found.checks.append(unanswered(str(error)))  # beside the violation that may have caused it
    return found


def _verify_answers(folder: Path, options: VerifyOptions, found: Verification) -> None:
    detector = Detector.load(folder, device="cpu")
    photos, logits = _replay(folder, detector, options, found)
    if options.run is not None:
        found.comparisons.append(
            compare_with_run(detector, options.run, limit_rows=options.run_rows, tie=TIE, limit=PROBABILITY_LIMIT)
        )
    if options.consumer:
        found.checks += [check_head(detector), check_sigmoid(logits)]
    # Pipelines need the form that transformers reads.
    if (folder / WEIGHTS_FILE).is_file():
        with tempfile.TemporaryDirectory() as scratch:
            timed = [Path(scratch) / "12-megapixel.jpg"] * (LATENCY_CALLS if options.consumer else 0)
            if timed:
                write_large_photo(timed[0])
            ours = detector.probabilities(logits)
            _ask_pipelines(folder, [*photos, *timed], ours, detector.facts.threshold, options=options, found=found)


def _replay(folder: Path, detector: Detector, options: VerifyOptions, found: Verification) -> tuple[list[Path], Tensor]:
    """The photos to verify on, and the detector's folded logits (N, 2) of them; compares with the run's own answers."""
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


def _ask_pipelines(
    folder: Path, photos: list[Path], ours: np.ndarray, threshold: float, *, options: VerifyOptions, found: Verification
) -> None:
    """Adds this transformers' pipeline and the consumer's; `photos` beyond those of `ours` (N,) are for timing."""
    n = len(ours)
    answers = [("transformers' pipeline", "transformers' pipeline", *pipeline_scores(folder, photos))]
    if options.consumer_python is not None:
        answer = ask_consumer(options.consumer_python, [(folder, photos)])[0]
        found.checks.append(check_answer(answer))
        if answer.error is None:
            name = f"the pipeline of transformers {answer.transformers}"
            answers.append((name, "the consumer's environment", answer.scores, answer.seconds))
    for name, where, scores, seconds in answers:
        found.comparisons.append(
            compare(
                f"Detector against {name}",
                [str(photo) for photo in photos[:n]],
                ours,
                calibrated_from_score(scores[:n], threshold),
                threshold=threshold,
                tie=PIPELINE_TIE,
            )
        )
        if options.consumer:
            found.checks.append(check_latency(seconds[n:], where))
