"""What levels 2 and 3 of a challenge do to a picture, on whole batches.

Each function takes images (N, 3, S, S) in [0, 1] and gives as many. The validator rounds down to 8 bits after each of
them; here nothing is rounded, which differs by less than 1 of 255 a step.
"""

from __future__ import annotations

import math
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from roadwork.data.augmentation.challenge.facts import (
    BLUR_KERNELS,
    CHROMA_FACTORS,
    CHROMA_RANGE,
    DOWNSAMPLINGS,
    LUMA_RANGE,
    NOISE_VARIANCES,
    STRENGTHS,
    VALUE_FACTORS,
)
from roadwork.data.augmentation.color import luma
from roadwork.data.augmentation.draws import change_rows_, per_image, rows_where, to_device
from roadwork.data.augmentation.jpeg import CHROMA_TO_RGB


def draw_strengths(levels: Tensor) -> Tensor:
    """Strengths (B, 5) int64 for levels (B,), by distortion: chroma, values, resolution, noise, blur."""
    choices = torch.tensor(STRENGTHS)[levels]
    return (torch.rand(choices.shape) * choices).long()


def distort_(images: Tensor, strengths: Tensor) -> None:
    """Applies strengths (B, 5) to images (B, 3, S, S) in place, in the validator's order."""
    chroma, values, resolution, noise, blurs = strengths.unbind(1)
    factors = torch.tensor(CHROMA_FACTORS)[chroma], torch.tensor(VALUE_FACTORS)[values]
    rows = rows_where((chroma > 0) | (values > 0))
    change_rows_(images, rows, fade, *(factor[rows] for factor in factors))
    for strength, factor in enumerate(DOWNSAMPLINGS[1:], 1):
        change_rows_(images, rows_where(resolution == strength), partial(coarsen, factor=factor))
    rows = rows_where(noise > 0)
    change_rows_(images, rows, add_noise, torch.tensor(NOISE_VARIANCES)[noise[rows]])
    for strength, kernel in enumerate(BLUR_KERNELS[1:], 1):
        change_rows_(images, rows_where(blurs == strength), partial(blur, kernel=kernel))


def fade(images: Tensor, chroma_factors: Tensor, value_factors: Tensor) -> Tensor:
    """Images whose differences from their own luma, then all values, are scaled by factors (N,)."""
    of_grey = per_image(value_factors * (1 - chroma_factors), images)
    return (images * per_image(value_factors * chroma_factors, images)).add_(luma(images) * of_grey)


def coarsen(images: Tensor, factor: int) -> Tensor:
    """Images shrunk by `factor` and enlarged again, both bilinearly and without antialiasing, as OpenCV does."""
    size = images.shape[-1]
    for side in (size // factor, size):
        images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    return images


def add_noise(images: Tensor, variances: Tensor) -> Tensor:
    """Images with Gaussian noise of variances (N,) in YCbCr, whose luma and chroma do not fill the range."""
    noise = torch.randn_like(images).mul_(per_image(variances.sqrt(), images))
    return torch.einsum("ij,njhw->nihw", _noise_matrix(images.device), noise).add_(images).clamp_(0, 1)


@cache
def _noise_matrix(device: torch.device) -> Tensor:
    """What noise of television's Y, Cb and Cr is in red, green and blue, (3, 3)."""
    from_luma = torch.full((3, 1), 1 / LUMA_RANGE)
    return to_device(torch.cat([from_luma, torch.tensor(CHROMA_TO_RGB) / CHROMA_RANGE], dim=1), device)


def blur(images: Tensor, kernel: int) -> Tensor:
    """Images under a Gaussian of `kernel` pixels, mirrored at the border, whose deviation is a sixth of that.

    Shifted copies are added up: on a CPU, kornia's convolution takes many times as long.
    """
    size, radius = images.shape[-1], kernel // 2
    weights = [math.exp(-((6 * shift / kernel) ** 2) / 2) for shift in range(-radius, radius + 1)]
    for axis, margins in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded = F.pad(images, margins, mode="reflect")
        images = torch.zeros_like(images)
        for start, weight in enumerate(weights):
            images.add_(padded.narrow(axis, start, size), alpha=weight / sum(weights))
    return images
