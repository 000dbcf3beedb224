"""From an encoded photo to what a network is given: the one way of evaluation, frozen features and prediction."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from roadwork.data.images import EVALUATION_SCALE, decode_image
from roadwork.models.processor import ImageStatistics


def read_pixels(data: bytes, size: int) -> Tensor:
    """(3, size, size) uint8 RGB of an encoded JPEG, PNG or WebP: the whole picture, upright.

    Raises:
        UnreadableImageError: as `decode_image`.
    """
    pixels = decode_image(data, size, EVALUATION_SCALE)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def to_network_input(images: Tensor, statistics: ImageStatistics) -> Tensor:
    """What a network takes, float32 of the same shape, for images (B, 3, S, S) uint8."""
    return normalise(to_unit_range(images), statistics)


def to_unit_range(images: Tensor) -> Tensor:
    """Images in [0, 1], float32, for uint8 ones: what augmentation works on."""
    return images.float().div_(255)


def normalise(images: Tensor, statistics: ImageStatistics) -> Tensor:
    """Images (B, 3, S, S) in [0, 1] as the network was trained to see them: less its mean, by its deviation."""
    mean, std = _on_device(statistics, images.device, images.dtype)
    return (images - mean) / std


@lru_cache
def _on_device(statistics: ImageStatistics, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and deviation (1, 3, 1, 1), made once: a copy to a GPU at each step would wait for all queued before it."""
    with torch.inference_mode(mode=False):  # they outlive a prediction, and training may need them next
        mean, std = (
            torch.tensor(values, device=device, dtype=dtype).view(1, 3, 1, 1)
            for values in (statistics.mean, statistics.std)
        )
    return mean, std
