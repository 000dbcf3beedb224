"""Bulk prediction of the same files by the same exported network: ours, and transformers' pipeline as it is used."""

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
# Pixels differ a little between the two readers; answers that differ by more are of another network or picture.
MAX_DIFFERENCE = 0.05
# (N,) probabilities of Roadwork, in the order of the photos.
Predict = Callable[[], list[float]]


def make_model(folder: Path, network: str) -> Path:
    """An exported folder with one of the step's networks, its weights random: what it says costs the same."""
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
    """Name to a prediction of all photos of a folder, each with `workers` threads or processes that read ahead."""
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
    """As transformers' guide has it."""
    from transformers import pipeline  # noqa: PLC0415  # seconds to import

    return pipeline("image-classification", model=str(model))


def scores(answers: Any) -> list[float]:
    """What a pipeline says of Roadwork."""
    return [{one["label"]: one["score"] for one in answer}[ROADWORK] for answer in answers]


def check_predictors(named: dict[str, Predict]) -> dict[str, float]:
    """The largest difference of each one's probabilities from ours.

    Raises:
        ValueError: it is more than two readers of one photo explain.
    """
    expected = named[OURS]()
    return {name: largest_difference(name, predict(), expected) for name, predict in named.items()}


def largest_difference(name: str, found: Sequence[float], expected: Sequence[float]) -> float:
    """Of probabilities.

    Raises:
        ValueError: it is more than two readers of one photo explain, or one photo is missing.
    """
    difference = max(abs(one - other) for one, other in zip(found, expected, strict=True))
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(f"{name} differs by {difference:.3f} from {OURS}: not the same network, or other pictures.")
    return difference
