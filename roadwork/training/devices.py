"""One device or several: what Lightning's Trainer is told, and what every process agrees on."""

from __future__ import annotations

from typing import Any

from roadwork.settings import TrainingSettings


def device_arguments(training: TrainingSettings) -> dict[str, Any]:
    """Lightning's arguments for the devices that train together."""
    return {"accelerator": training.accelerator, "devices": 1}
