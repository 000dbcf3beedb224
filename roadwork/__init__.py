"""Trains roadwork detectors for street photos and evaluates them at places that training has not seen.

`from roadwork import Detector; Detector.load("model")("photo.jpg")` classifies a photo.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadwork.config import load_config
    from roadwork.data.datamodule import NATIXDataModule
    from roadwork.detector.detector import Detector, Prediction
    from roadwork.models.build import build_model
    from roadwork.training.trainers.base_trainer import BaseTrainer

__version__ = "0.2.0"
__all__ = [
    "BaseTrainer",
    "Detector",
    "NATIXDataModule",
    "Prediction",
    "__version__",
    "build_model",
    "load_config",
]

# Imported on first use: they need torch, which takes seconds to import.
_HOMES = {
    "BaseTrainer": "roadwork.training.trainers.base_trainer",
    "Detector": "roadwork.detector.detector",
    "NATIXDataModule": "roadwork.data.datamodule",
    "Prediction": "roadwork.detector.detector",
    "build_model": "roadwork.models.build",
    "load_config": "roadwork.config",
}

if __name__ == "src":  # a user's `from src.data... import ...`
    from roadwork.src_alias import alias_package

    alias_package("src", "roadwork")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
