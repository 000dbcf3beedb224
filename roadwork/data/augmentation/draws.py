"""Random draws of one value an image, and what they select.

They come from torch's global generator on the CPU, whatever the device of the images: ``torch.manual_seed`` repeats
them on every machine, and choosing rows never waits for the device. Noise fields, which have a value a pixel, are
drawn on the images' device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def uniform(count: int, low: float, high: float) -> Tensor:
    """(count,) float32 values between ``low`` and ``high``, on the CPU."""
    return low + (high - low) * torch.rand(count)


def coin(count: int, probability: float) -> Tensor:
    """(count,) bool, each True with this probability, on the CPU."""
    return torch.rand(count) < probability


def rows_where(chosen: Tensor) -> Tensor:
    """Positions (N,) int64 of the True ones of ``chosen`` (B,), on the CPU, where counting them is free."""
    return chosen.nonzero().squeeze(1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on the device, without waiting for what is queued there, as a plain ``.to`` does.

    CUDA stages memory that is not pinned before the call returns, so that the source may be freed at once.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) values moved to the images' device, and shaped (B, 1, 1, 1) to broadcast over them."""
    return to_device(values, images.device).view(-1, 1, 1, 1)


def change_rows_(images: Tensor, rows: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """Changes some images of a batch in place, all in one call.

    Args:
        images: (B, C, H, W).
        rows: (N,) int64 on the CPU, positions of those to change; none is allowed.
        change: takes a copy of them, (N, C, H, W), and ``values``, and gives what replaces them.
        values: further arguments of ``change``.
    """
    if len(rows):
        rows = to_device(rows, images.device)
        images.index_copy_(0, rows, change(images.index_select(0, rows), *values))
