"""What transformers' own pipeline makes of an exported folder: nothing of roadwork is between photo and score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from roadwork.errors import DataError
from roadwork.inference.detector import ROADWORK
from roadwork.models.build import without_transformers_report
from roadwork.models.own import register_own_networks
from roadwork.progress import track


def pipeline_scores(folder: Path, photos: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the score of Roadwork, and (N,) seconds that it took on the CPU, photo by photo from the file on.

    Raises:
        DataError: no label is exactly Roadwork.
    """
    register_own_networks()
    with without_transformers_report():
        classify = pipeline(
            "image-classification",
            model=AutoModelForImageClassification.from_pretrained(folder, local_files_only=True),
            # The form that needs no torchvision.
            image_processor=AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil"),
            device="cpu",
        )
    scores, seconds = [], []
    for photo in track(photos, len(photos), "transformers' pipeline"):
        started = time.perf_counter()
        with Image.open(photo) as image:
            answer = {row["label"]: row["score"] for row in classify(image)}
        seconds.append(time.perf_counter() - started)
        if ROADWORK not in answer:
            raise DataError(f"No label of {folder} is exactly {ROADWORK}: {', '.join(answer)}. Export again.")
        scores.append(answer[ROADWORK])
    return np.array(scores, dtype=np.float64), np.array(seconds)
