"""Random draws of one value an image.

They come from torch's global generator on the CPU, whatever the device of the images: ``torch.manual_seed`` repeats
them on every machine, and choosing rows never waits for the device. Noise fields, which have a value a pixel, are
drawn on the images' device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(count: int, low: float, high: float) -> Tensor:
    """(count,) float32 values between ``low`` and ``high``, on the CPU."""
    return low + (high - low) * torch.rand(count)


def coin(count: int, probability: float) -> Tensor:
    """(count,) bool, each True with this probability, on the CPU."""
    return torch.rand(count) < probability


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) values moved to the images' device, and shaped (B, 1, 1, 1) to broadcast over them."""
    return values.to(images.device).view(-1, 1, 1, 1)
