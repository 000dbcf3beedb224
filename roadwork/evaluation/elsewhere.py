"""Judges a run or an exported detector on another labelled dataset, without the rows that training has seen."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from huggingface_hub import ModelCard
from joblib import cpu_count
from omegaconf import OmegaConf
from scipy.special import logit
from torch import Tensor
from transformers import PreTrainedModel
from typing_extensions import override

from roadwork.config import to_settings
from roadwork.core.devices import choose_device
from roadwork.core.errors import DataError, RoadworkError
from roadwork.core.files import write_json
from roadwork.core.progress import track
from roadwork.data.dataset import UnreadableLedger
from roadwork.data.images import ImageSource, UnreadableImage, UnreadableImageError, read_pixels
from roadwork.data.open import find_groups, hash_images
from roadwork.detector.detector import Detector
from roadwork.detector.familiarity import Reference, judge, unknown
from roadwork.detector.folding import read_calibration
from roadwork.detector.format import CARD_FILE, CONFIG_FILE, ExportFacts, Preprocessing
from roadwork.detector.networks import TorchNetwork
from roadwork.detector.predict import in_batches, map_ahead
from roadwork.evaluation.elsewhere_results import conclude, score_elsewhere, with_class_metrics
from roadwork.evaluation.ensemble import AveragedNetworks, merge_members
from roadwork.evaluation.evaluate import check_weights_are_evaluated, coarsen_rows, load_best_model
from roadwork.evaluation.other_dataset import OtherDataset, Part, open_other
from roadwork.evaluation.reference import keep_reference, read_features, times_of
from roadwork.evaluation.seen_rows import REASONS, TRAINING_ROWS_FILE, SeenRows, TrainingRows, find_seen
from roadwork.metrics.decision import antisymmetric, fold, margin
from roadwork.metrics.predictions import build_predictions, write_predictions
from roadwork.models.processor import image_statistics
from roadwork.runs.run import Run, find_test_result
from roadwork.settings import Settings
from roadwork.training.lora.apply import merge_adapter

logger = logging.getLogger(__name__)

PHOTOS, PAIRS = "photos", "pairs"
UNREADABLE, OTHER_HALF = "unreadable", "other half of the pair excluded"
RESULTS_FILE, PREDICTIONS_FILE, EXCLUDED_FILE = "results.json", "predictions.parquet", "excluded.csv"
_BATCH, _AHEAD_PER_WORKER = 32, 2
_EXAMPLES = 3
# The metrics in an exported model card, by the names that the hub has for them.
_CARD_FIGURES = {"matthews_correlation": "mcc"} | {name: name for name in ("accuracy", "precision", "recall", "f1")}


@dataclass(frozen=True)
class Judged:
    """A detector to judge.

    Attributes:
        detector: of the run, with its calibration, or of the exported folder.
        read_reference: makes the sample of training photos; raises `RoadworkError` if the run's data cannot be used.
        read_training: reads the rows that it was trained on; raises `RoadworkError` if they are not known.
        val_test: its figures on `val_test` by name; None if they are not known.
        base: the sections evaluation and privacy of its configuration.
        folder: where results go by default, one folder per dataset.
        run: the run; None for an exported folder.
    """

    detector: Detector
    read_reference: Callable[[], Reference | None]
    read_training: Callable[[], TrainingRows]
    val_test: dict[str, Any] | None
    base: dict[str, Any]
    folder: Path
    run: Run | None = None


def evaluate_elsewhere(
    model: Path, on: str, overrides: Sequence[str] = (), out: Path | None = None
) -> tuple[dict[str, Any], Path]:
    """The figures of a detector on another dataset, and the folder with results, predictions and excluded rows.

    `val_test` is not opened, and its openings are not counted: rows of `val_test` are excluded like training rows.

    Args:
        model: a run folder, or a folder that `roadwork export` has written.
        on: the dataset, as in `open_other`.
        overrides: `key=value` of the dataset's configuration.
        out: the folder of the results. Default: `on/<dataset>` in the run folder, or `outputs/on/<model>/<dataset>`.

    Raises:
        ConfigError: an override cannot be used.
        DataError: the model or the dataset cannot be used, or no row is left.
    """
    judged = open_judged(model)
    other = open_other(on, overrides, judged.base)
    folder = out or judged.folder / other.name
    _check_target(folder, other)
    training, facts = _read_training(judged), judged.detector.facts
    parts = {
        name: _judge_part(judged.detector, training, part, name, other.settings)
        for name, part in ((PHOTOS, other.photos), (PAIRS, other.pairs))
        if part is not None
    }
    predictions = {name: part.predictions for name, part in parts.items()}
    excluded = pd.concat([part.excluded for part in parts.values()], ignore_index=True)
    scores = score_elsewhere(
        predictions.get(PHOTOS), predictions.get(PAIRS), judged.val_test, other.settings, facts.threshold
    )
    result = {
        "dataset": other.name,
        "dataset_key": other.key,
        "threshold": facts.threshold,
        "is_calibrated": facts.prior is not None,
        "seen": _describe_seen(training, list(parts.values())),
        "unreadable": int((excluded["reason"] == UNREADABLE).sum()),
        "familiarity": _judge_familiarity(judged, training, other, parts),
        **scores,
    }
    result["sentence"] = conclude(result)
    write_predictions(pd.concat(predictions.values(), ignore_index=True), folder / PREDICTIONS_FILE)
    excluded.to_csv(folder / EXCLUDED_FILE, index=False)
    write_json(folder / RESULTS_FILE, result)
    if judged.run is not None:
        judged.run.write_manifest()
    return result, folder


def open_judged(model: Path) -> Judged:
    """The detector in a run folder or an exported folder.

    Raises:
        DataError: it is neither, or it is damaged.
    """
    if (model / CONFIG_FILE).is_file():
        detector = Detector.load(model)
        return Judged(
            detector=detector,
            read_reference=lambda: detector.reference,
            read_training=partial(TrainingRows.read, model / TRAINING_ROWS_FILE),
            val_test=_read_card(model / CARD_FILE),
            base={},
            folder=Path(Settings().output_dir) / "on" / model.resolve().name,
        )
    run = Run.open(model)
    check_weights_are_evaluated(run)
    config = run.read_config()
    settings, facts = to_settings(config), read_calibration(run)
    device = choose_device()
    best = load_best_model(run.folder, settings)
    network = merge_members(best) if isinstance(best, AveragedNetworks) else merge_adapter(best)
    detector = Detector(
        _FoldedNetwork(network.to(device), facts or ExportFacts()),
        Preprocessing(settings.data.img_size, image_statistics(settings.model)),
        facts or ExportFacts(),
        device,
    )
    result = find_test_result(run.read_results(), is_calibrated=facts is not None)
    return Judged(
        detector=detector,
        read_reference=partial(keep_reference, run, detector, result),
        read_training=partial(TrainingRows.of_run, run, settings),
        val_test=None if result is None else with_class_metrics(result),
        base={name: OmegaConf.to_container(config[name]) for name in ("evaluation", "privacy") if name in config},
        folder=run.elsewhere_folder,
        run=run,
    )


class _FoldedNetwork(TorchNetwork):
    """The network of a run, with its calibration folded into the logits."""

    def __init__(self, module: PreTrainedModel, facts: ExportFacts) -> None:
        super().__init__(module)
        self.facts = facts

    @override
    def __call__(self, pixels: Tensor) -> Tensor:
        return fold(super().__call__(pixels), self.facts.temperature, self.facts.threshold)

    @override
    def with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        logits, features = super().with_features(pixels)
        return fold(logits, self.facts.temperature, self.facts.threshold), features


def _read_training(judged: Judged) -> TrainingRows | str:
    """The training rows, or why they are not known; a warning is logged then."""
    try:
        return judged.read_training()
    except (RoadworkError, OSError) as error:
        logger.warning("Rows that training has seen cannot be excluded: %s", error)
        return str(error)


def _judge_familiarity(
    judged: Judged, training: TrainingRows | str, other: OtherDataset, parts: dict[str, _JudgedPart]
) -> dict[str, Any]:
    """Whether the judged photos (those of pairs only without others) look like the training photos."""
    part, rows = (other.photos, parts[PHOTOS].rows) if other.photos else (other.pairs, parts[PAIRS].rows)
    assert part is not None
    try:
        if judged.run is not None and isinstance(training, str):
            raise DataError(training)  # the run's data cannot be read
        reference = judged.read_reference()
        chosen = np.arange(len(rows))
        if reference is not None:
            chosen = np.linspace(0, len(rows) - 1, min(len(rows), reference.most)).round().astype(np.int64)
        times = times_of(part.table, part.data.splitting.time_column)
        _, features, facts = read_features(judged.detector, part.source, rows[chosen], times, part.table.gps)
        found = judge(reference, features, facts)
    except (RoadworkError, OSError) as error:
        found = unknown(str(error))
    return found.as_dict() | {"sentences": found.comparison()}


def _read_card(path: Path) -> dict[str, Any] | None:
    """The figures on `val_test` in an exported model card; None if it has none that can be read."""
    if not path.is_file():
        return None
    try:
        results = ModelCard.load(path).data.eval_results or []
    except (OSError, ValueError, AttributeError):  # removed or rewritten by its owner
        return None
    return {_CARD_FIGURES[each.metric_type]: each.metric_value for each in results if each.metric_type in _CARD_FIGURES}


def _check_target(folder: Path, other: OtherDataset) -> None:
    try:
        key = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))["dataset_key"]
    except (OSError, ValueError, KeyError):
        return
    if key != other.key:
        raise DataError(
            f"{folder} has the results of another dataset that is named {other.name}, too. Name another folder with "
            "--out, or remove it."
        )


@dataclass(frozen=True)
class _JudgedPart:
    """Predictions of a part of a dataset.

    Attributes:
        predictions: a predictions table.
        excluded: `part`, `id`, `filename`, `reason`, `training_row` and `error` of the rows that it lacks.
        n_other_photos: as in `SeenRows`.
        rows: of the part's table, as in `predictions`.
    """

    predictions: pd.DataFrame
    excluded: pd.DataFrame
    n_other_photos: int
    rows: np.ndarray


def _judge_part(
    detector: Detector, training: TrainingRows | str, part: Part, name: str, settings: Settings
) -> _JudgedPart:
    """Predicts the rows that training has not seen.

    Raises:
        DataError: no row is left, or more images are unreadable than allowed.
    """
    table, source = part.table, part.source
    for note in table.notes:
        logger.info(note)
    seen, training_names = SeenRows.none(len(table)), np.array([""], dtype=object)
    if isinstance(training, TrainingRows):
        seen = find_seen(training, table, hash_images(part.data, table, source))
        training_names = np.append(training.filenames, "")  # the last one is that of -1
    reasons = seen.reasons.copy()
    _exclude_other_halves(part, reasons)
    _check_rows_left(reasons, name)
    kept = np.flatnonzero(reasons == "")
    ledger = UnreadableLedger(table, part.data.max_unreadable)
    logits = predict_rows(detector, source, kept, ledger)
    reasons[list(ledger.reasons)] = UNREADABLE
    _exclude_other_halves(part, reasons)
    _check_rows_left(reasons, name)
    groups = find_groups(part.data, table, source).names if part.pairs is None else part.pairs
    shown, groups = coarsen_rows(table, groups, settings.privacy.coarsen_gps)
    rows, out = np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "")
    predictions = build_predictions(
        shown.take(rows),
        np.full(len(rows), name, dtype=object),
        groups[rows],
        logits[reasons[kept] == ""],
        np.full(len(rows), np.nan),
    )
    excluded = {
        "part": np.full(len(out), name, dtype=object),
        "id": table.ids[out],
        "filename": table.filenames[out],
        "reason": reasons[out],
        "training_row": training_names[seen.like[out]],
        "error": [ledger.reasons.get(row, "") for row in out.tolist()],
    }
    return _JudgedPart(predictions, pd.DataFrame(excluded), seen.n_other_photos, rows)


def _check_rows_left(reasons: np.ndarray, name: str) -> None:
    if (reasons == "").any():
        return
    names, counts = np.unique(reasons.astype(str), return_counts=True)
    shares = ", ".join(f"{count:,} {reason}" for reason, count in zip(names, counts, strict=True))
    raise DataError(
        f"None of the {len(reasons):,} {name} is left to judge. Excluded: {shares}. "
        "Name a dataset with readable photos that training has not seen."
    )


def _exclude_other_halves(part: Part, reasons: np.ndarray) -> None:
    """Excludes, in place, the photo whose partner in a pair is excluded."""
    if part.pairs is not None:
        reasons[(reasons == "") & np.isin(part.pairs, part.pairs[reasons != ""])] = OTHER_HALF


def predict_rows(detector: Detector, source: ImageSource, rows: np.ndarray, ledger: UnreadableLedger) -> np.ndarray:
    """(n, 2) calibrated logits of rows (n,), NaN where an image is unreadable; the ledger then has the reason.

    Temperature and threshold of the detector are unfolded: the softmax is the calibrated probability.
    """

    def read(row: int) -> Tensor | UnreadableImage:
        try:
            return read_pixels(source.read(row), detector.preprocessing.size)
        except UnreadableImageError as error:
            return UnreadableImage(row, str(error))

    threads = cpu_count()
    images = map_ahead(read, rows.tolist(), threads, _BATCH + _AHEAD_PER_WORKER * threads)
    margins, unreadable = [], []
    for batch in in_batches(track(images, len(rows), "Predicting"), _BATCH):
        readable = [image for image in batch if isinstance(image, Tensor)]
        unreadable += [image for image in batch if isinstance(image, UnreadableImage)]
        found = np.full(len(batch), np.nan)
        if readable:
            folded = margin(detector.logits(torch.stack(readable)).double()).numpy()
            found[[isinstance(image, Tensor) for image in batch]] = folded + logit(detector.facts.threshold)
        margins.append(found)
    ledger.add(unreadable)
    return antisymmetric(torch.from_numpy(np.concatenate(margins))).numpy()


def _describe_seen(training: TrainingRows | str, parts: Sequence[_JudgedPart]) -> dict[str, Any]:
    excluded = pd.concat([part.excluded for part in parts])
    excluded = excluded[excluded["reason"] != UNREADABLE]
    counts = excluded["reason"].value_counts()
    return {
        "is_checked": isinstance(training, TrainingRows),
        "not_checked": list(training.not_checked) if isinstance(training, TrainingRows) else [training],
        "n": len(excluded),
        "by_reason": {reason: int(counts[reason]) for reason in (*REASONS, OTHER_HALF) if reason in counts},
        "examples": excluded["filename"].head(_EXAMPLES).tolist(),
        "n_other_photos": sum(part.n_other_photos for part in parts),
    }
