"""The mean and standard deviation that a network expects its images to be normalised with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from roadwork.core.errors import ConfigError

if TYPE_CHECKING:
    from roadwork.settings import ModelSettings

logger = logging.getLogger(__name__)

PROCESSOR_FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageStatistics:
    """Per channel (red, green, blue), for pixels in [0, 1]: normalised = (pixel - mean) / std."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_STATISTICS = ImageStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
UNNORMALISED = ImageStatistics(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def image_statistics(model: ModelSettings) -> ImageStatistics:
    """The statistics that a pretrained model was trained with; ImageNet's for random weights.

    Raises:
        ConfigError: the pretrained model cannot be found, or its statistics are not three numbers each.
    """
    if not model.pretrained:
        return IMAGENET_STATISTICS
    path = _processor_file(model.name)
    if path is None:
        logger.warning("%s has no %s: images are normalised with ImageNet's statistics.", model.name, PROCESSOR_FILE)
        return IMAGENET_STATISTICS
    processor = json.loads(path.read_text(encoding="utf-8"))
    if not processor.get("do_normalize", True):
        return UNNORMALISED
    return ImageStatistics(
        mean=_three_numbers(path, "image_mean", processor.get("image_mean", IMAGENET_STATISTICS.mean)),
        std=_three_numbers(path, "image_std", processor.get("image_std", IMAGENET_STATISTICS.std)),
    )


def _processor_file(name: str) -> Path | None:
    if Path(name).is_dir():
        path = Path(name) / PROCESSOR_FILE
        return path if path.is_file() else None

    # An exported detector reads its statistics from its folder, so it must not wait for the import of transformers.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import RemoteEntryNotFoundError  # noqa: PLC0415

    from roadwork.models.architecture import load_local_first  # noqa: PLC0415

    def download(local_files_only: bool) -> Path | None:
        try:
            return Path(hf_hub_download(name, PROCESSOR_FILE, local_files_only=local_files_only))
        except RemoteEntryNotFoundError:
            return None

    return load_local_first(name, download)


def _three_numbers(path: Path, key: str, values: object) -> tuple[float, float, float]:
    if (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(isinstance(value, int | float) for value in values)
    ):
        red, green, blue = values
        return float(red), float(green), float(blue)
    raise ConfigError(f"{path}: {key} is {values!r}; it must be three numbers, one each for red, green and blue.")
