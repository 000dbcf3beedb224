"""TrivialAugment: one random operation an image, at a random strength (Müller & Hutter 2021, arXiv:2103.10158).

Operations and ranges are the paper's "wide" space, as in torchvision's ``TrivialAugmentWide``, but for three things
that suit batches of any size: translation is a share of the image (32 of 224 pixels), shearing is about the centre,
and sampling is bilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia import enhance
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.color import luma
from roadwork.data.augmentation.draws import coin, per_image

# Strengths are drawn from this many steps, 0 and the greatest included.
STRENGTH_STEPS = 31


def _identity(images: Tensor, _magnitudes: Tensor) -> Tensor:
    return images


def _enhance(images: Tensor, plain: Tensor, magnitudes: Tensor) -> Tensor:
    """As PIL.ImageEnhance: away from or towards a plain version of the image, by the factor 1 + magnitude."""
    return torch.lerp(plain, images, per_image(1 + magnitudes, images)).clamp_(0, 1)


def _brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _enhance(images, torch.zeros_like(images), magnitudes)


def _color(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _enhance(images, luma(images).expand_as(images), magnitudes)


def _contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _enhance(images, luma(images).mean((2, 3), keepdim=True).expand_as(images), magnitudes)


def _sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    # PIL's SMOOTH kernel: ones with 5 in the middle, over 13. The border has no neighbours and stays.
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (9 * F.avg_pool2d(images, 3, stride=1) + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return _enhance(images, smooth, magnitudes)


def _posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    posterized: Tensor = enhance.posterize(images, (8 - magnitudes.abs().round()).int())
    return posterized


def _solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    solarized: Tensor = enhance.solarize(images, 1 - magnitudes.abs())
    return solarized


def _auto_contrast(images: Tensor, _magnitudes: Tensor) -> Tensor:
    darkest, brightest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = brightest - darkest
    return torch.where(spread > 0, (images - darkest) / spread, images)


def _equalize(images: Tensor, _magnitudes: Tensor) -> Tensor:
    equalized: Tensor = enhance.equalize(images)
    return equalized


@dataclass(frozen=True)
class Geometric:
    """An operation that moves pixels: magnitudes (N,) to matrices (N, 3, 3); ``limit`` is the greatest magnitude."""

    limit: float
    matrices: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Photometric:
    """An operation that changes values: images (N, 3, S, S) and magnitudes (N,) to images."""

    limit: float
    apply: Callable[[Tensor, Tensor], Tensor]


OPERATIONS: dict[str, Geometric | Photometric] = {
    "Identity": Photometric(0, _identity),
    "ShearX": Geometric(0.99, geometry.shear_x),  # tangent
    "ShearY": Geometric(0.99, geometry.shear_y),
    "TranslateX": Geometric(32 / 224, geometry.translate_x),  # share of the width
    "TranslateY": Geometric(32 / 224, geometry.translate_y),
    "Rotate": Geometric(135, geometry.rotate),  # degrees
    "Brightness": Photometric(0.99, _brightness),  # factor 0.01 to 1.99, as in the next three
    "Color": Photometric(0.99, _color),
    "Contrast": Photometric(0.99, _contrast),
    "Sharpness": Photometric(0.99, _sharpness),
    "Posterize": Photometric(6, _posterize),  # bits dropped of 8
    "Solarize": Photometric(1, _solarize),  # below 1: where inversion begins
    "AutoContrast": Photometric(0, _auto_contrast),
    "Equalize": Photometric(0, _equalize),
}


def trivial_augment(images: Tensor, strength: float = 1.0) -> Tensor:
    """Images (B, 3, S, S) in [0, 1], each changed by one operation of its own.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        strength: scales all magnitudes; 1 is the paper's range. AutoContrast and Equalize have no magnitude.
    """
    count = len(images)
    choices = torch.randint(len(OPERATIONS), (count,))
    levels = strength * torch.randint(STRENGTH_STEPS, (count,)) / (STRENGTH_STEPS - 1)
    return apply_operations(images, choices, torch.where(coin(count, 0.5), levels, -levels))


def apply_operations(images: Tensor, choices: Tensor, levels: Tensor) -> Tensor:
    """Images with operation ``choices[i]`` applied to image i, one call for all images that drew the same.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        choices: (B,) int64 on the CPU, positions in ``OPERATIONS``.
        levels: (B,) float32 on the CPU, -1 to 1 of each operation's limit; some have no direction.
    """
    augmented = images.clone()
    moved, matrices = [], []
    for index, operation in enumerate(OPERATIONS.values()):
        rows = (choices == index).nonzero().squeeze(1)
        magnitudes = operation.limit * levels[rows]
        if isinstance(operation, Geometric):
            moved.append(rows)
            matrices.append(operation.matrices(magnitudes))
        elif len(rows):
            on_device = rows.to(images.device)
            augmented[on_device] = operation.apply(images[on_device], magnitudes.to(images.device))
    rows = torch.cat(moved).to(images.device)
    if len(rows):
        augmented[rows] = geometry.warp(images[rows], torch.cat(matrices), padding="zeros")
    return augmented
