"""Bulk predictors of the same files with the same exported network: ours and transformers' pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.step_work import CONFIG, NETWORKS
from roadwork.config import load_config, to_settings
from roadwork.core.files import write_json
from roadwork.detector.detector import ROADWORK, Detector
from roadwork.detector.discovery import find_photos
from roadwork.detector.folding import fold_calibration
from roadwork.detector.format import CONFIG_FILE, KEY, ExportFacts, Preprocessing, read_json
from roadwork.detector.predict import PredictOptions, predict_to_file
from roadwork.models.build import build_model
from roadwork.models.processor import PROCESSOR_FILE, image_statistics

OURS = "roadwork"
SIZES = {"resnet": 96, "vit-s": 224}
# The two image readers differ slightly; a larger difference in probability means another network or other images.
MAX_DIFFERENCE = 0.05
# Returns (N,) probabilities of Roadwork, in the order of the photos.
Predict = Callable[[], list[float]]


def make_model(folder: Path, network: str) -> Path:
    """Exports one of the networks of `benchmarks.step` with random weights and returns its folder."""
    settings = to_settings(load_config(CONFIG, [*NETWORKS[network][1], f"data.img_size={SIZES[network]}"]))
    torch.manual_seed(0)
    built = build_model(settings.model, settings.data.img_size).eval()
    facts = ExportFacts()
    fold_calibration(built, facts.temperature, facts.threshold)
    built.save_pretrained(folder)
    write_json(folder / CONFIG_FILE, read_json(folder, CONFIG_FILE) | {KEY: facts.as_config(), "problem_type": None})
    preprocessing = Preprocessing(settings.data.img_size, image_statistics(settings.model))
    write_json(folder / PROCESSOR_FILE, preprocessing.as_config())
    return folder


def predictors(model: Path, photos: Path, batch: int, workers: int) -> dict[str, Predict]:
    """Returns the predictors of a photo folder by name. Each prefetches with `workers` threads or processes."""
    detector = Detector.load(model)
    pipeline = load_pipeline(model)
    paths = [str(path) for path in sorted(photos.iterdir())]

    def ours() -> list[float]:
        out = photos.with_name("photos.csv")
        predict_to_file(
            model, detector, find_photos([str(photos)]), out, PredictOptions(batch, workers), overwrite=True
        )
        return pd.read_csv(out, keep_default_na=False)["probability"].astype(float).tolist()

    def generate() -> Iterator[str]:
        yield from paths

    return {
        OURS: ours,
        f"pipeline, list, {workers} workers": lambda: scores(pipeline(paths, batch_size=batch, num_workers=workers)),
        "pipeline, list": lambda: scores(pipeline(paths, batch_size=batch)),
        "pipeline, generator, 1 worker": lambda: scores(pipeline(generate(), batch_size=batch, num_workers=1)),
    }


def load_pipeline(model: Path) -> Any:
    """Loads the pipeline as in the documentation of transformers."""
    from transformers import pipeline  # noqa: PLC0415  # seconds to import

    return pipeline("image-classification", model=str(model))


def scores(answers: Any) -> list[float]:
    """Returns the pipeline's probabilities of Roadwork."""
    return [{one["label"]: one["score"] for one in answer}[ROADWORK] for answer in answers]


def check_predictors(named: dict[str, Predict]) -> dict[str, float]:
    """Returns the maximum absolute difference in probability from ours, per predictor.

    Raises:
        ValueError: a difference exceeds `MAX_DIFFERENCE`.
    """
    expected = named[OURS]()
    return {name: largest_difference(name, predict(), expected) for name, predict in named.items()}


def largest_difference(name: str, found: Sequence[float], expected: Sequence[float]) -> float:
    """Returns the maximum absolute difference in probability.

    Raises:
        ValueError: the difference exceeds `MAX_DIFFERENCE`, or a photo is missing.
    """
    difference = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(f"{name} differs by {difference:.3f} from {OURS}, more than {MAX_DIFFERENCE:g}.")
    return difference
