# ruff: noqa: INP001 -- a script for another interpreter, part of no package
"""Loads and scores exported folders like a StreetVision miner, in the miner's own Python with transformers 4.45.2.

It is stand-alone: it needs torch, torchvision, transformers and Pillow, but not roadwork. It reads from standard input

    [{"folder": "model", "photos": ["a.jpg", ...]}, ...]

and writes one JSON object to standard output, with the score of the label `Roadwork` for each photo.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

LABEL = "Roadwork"
PACKAGES = ("torch", "torchvision", "pillow", "numpy", "tokenizers", "safetensors", "transformers")


class Messages(logging.Handler):
    """Collects warnings: transformers only warns when it initialises missing weights at random."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def score(folder: str, photos: list[str]) -> dict[str, Any]:
    """The result of loading a folder and scoring photos like a miner; `error` is the reason of a failure."""
    import transformers  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    messages = Messages()
    transformers.utils.logging.get_logger().addHandler(messages)
    result: dict[str, Any] = {"folder": folder, "error": None, "scores": [], "seconds": []}
    try:
        model, loading = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
        processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=True)
        classify = transformers.pipeline("image-classification", model=model, feature_extractor=processor)
        result["model"], result["processor"] = type(model).__name__, type(classify.image_processor).__name__
        result["weights"] = {kind: sorted(map(str, names)) for kind, names in loading.items() if names}
        for photo in photos:
            started = time.perf_counter()
            with Image.open(photo) as image:
                scores = {row["label"]: row["score"] for row in classify(image)}
            result["seconds"].append(time.perf_counter() - started)
            result["scores"].append(scores[LABEL])
    except Exception as error:  # noqa: BLE001 -- any failure is reported
        result["error"] = f"{type(error).__name__}: {error}"
    finally:
        transformers.utils.logging.get_logger().removeHandler(messages)
    result["warnings"] = messages.texts
    return result


def main() -> None:
    """Handles the request on standard input."""
    request = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        folders = [score(str(Path(entry["folder"]).resolve()), entry["photos"]) for entry in request]
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    versions = {name: installed.get(name, "missing") for name in PACKAGES} | {"python": platform.python_version()}
    json.dump({"versions": versions, "folders": folders}, sys.stdout)


if __name__ == "__main__":
    main()
