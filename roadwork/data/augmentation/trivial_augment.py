"""TrivialAugment: one random operation per image, at a random strength (Müller & Hutter 2021, arXiv:2103.10158).

Operations and ranges are the paper's "wide" space, as in torchvision's ``TrivialAugmentWide``, with three differences
that suit any image size: translation is a share of the image (32/224), shearing is about the centre, and sampling is
bilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import bernoulli, change_rows_, per_image, rows_where
from roadwork.data.augmentation.color import luma

# Number of strengths, from 0 to the maximum inclusive.
STRENGTH_STEPS = 31


def _brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    return (images * per_image(1 + magnitudes, images)).clamp_(0, 1)


def _enhance(images: Tensor, plain: Tensor, magnitudes: Tensor) -> Tensor:
    """Like PIL.ImageEnhance: extrapolates from (or blends with) a plain version by the factor 1 + magnitude."""
    magnitudes = per_image(magnitudes, images)
    return (images * (1 + magnitudes)).sub_(plain * magnitudes).clamp_(0, 1)


def _color(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _enhance(images, luma(images), magnitudes)


def _contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    return _enhance(images, luma(images.mean((2, 3), keepdim=True)), magnitudes)


def _sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    # PIL's SMOOTH kernel: ones with 5 in the middle, over 13. Border pixels lack neighbours and are unchanged.
    inner = images[:, :, 1:-1, 1:-1]
    rows = (images[:, :, :-2] + images[:, :, 1:-1]).add_(images[:, :, 2:])
    smooth = (rows[..., :-2] + rows[..., 1:-1]).add_(rows[..., 2:]).add_(inner, alpha=4).div_(13)
    sharpened = images.clone()
    sharpened[:, :, 1:-1, 1:-1] = _enhance(inner, smooth, magnitudes)
    return sharpened


def _posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    # Equals shifting 8-bit levels right and left again, but on floats.
    step = per_image(2 ** magnitudes.abs().round(), images)
    return (images * (255 / step)).floor_().mul_(step / 255)


def _solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    return torch.where(images < per_image(1 - magnitudes.abs(), images), images, 1 - images)


def _auto_contrast(images: Tensor, _magnitudes: Tensor) -> Tensor:
    darkest, brightest = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    is_flat = brightest == darkest
    return (images - darkest.masked_fill(is_flat, 0)).div_((brightest - darkest).masked_fill(is_flat, 1))


def _equalize(images: Tensor, _magnitudes: Tensor) -> Tensor:
    """Like PIL.ImageOps.equalize: flattens the histogram of each channel's 8-bit levels."""
    levels = (images * 255).byte().flatten(0, 1).flatten(1).long()  # the cast to bytes keeps indices within the table
    one = levels.new_ones(1, 1).expand_as(levels)
    # histc would need one call per channel, and bincount waits for the device.
    counts = levels.new_zeros(len(levels), 256).scatter_add_(1, levels, one)
    up_to = counts.cumsum(1)
    brightest = levels.amax(1, keepdim=True)
    step = (levels.shape[1] - counts.gather(1, brightest)) // 255
    moved = ((up_to - counts + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, moved, torch.arange(256, device=levels.device)).float().div_(255)
    return table.gather(1, levels).view_as(images)


def _move(images: Tensor, matrices: Tensor) -> Tensor:
    return geometry.warp(images, matrices, padding="zeros")


@dataclass(frozen=True)
class Geometric:
    """An operation that moves pixels: maps magnitudes (N,), up to ``limit``, to matrices (N, 3, 3)."""

    limit: float
    matrices: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Photometric:
    """An operation that changes values: maps images (N, 3, S, S) and magnitudes (N,), up to ``limit``, to images."""

    limit: float
    apply: Callable[[Tensor, Tensor], Tensor]


OPERATIONS: dict[str, Geometric | Photometric | None] = {
    "Identity": None,
    "ShearX": Geometric(0.99, geometry.shear_x),  # tangent
    "ShearY": Geometric(0.99, geometry.shear_y),
    "TranslateX": Geometric(32 / 224, geometry.translate_x),  # share of the width
    "TranslateY": Geometric(32 / 224, geometry.translate_y),
    "Rotate": Geometric(135, geometry.rotate),  # degrees
    "Brightness": Photometric(0.99, _brightness),  # factor 0.01 to 1.99, also for the next three
    "Color": Photometric(0.99, _color),
    "Contrast": Photometric(0.99, _contrast),
    "Sharpness": Photometric(0.99, _sharpness),
    "Posterize": Photometric(6, _posterize),  # of 8 bits dropped
    "Solarize": Photometric(1, _solarize),  # inverts values from 1 - magnitude
    "AutoContrast": Photometric(0, _auto_contrast),
    "Equalize": Photometric(0, _equalize),
}


def trivial_augment_(images: Tensor, strength: float = 1.0) -> None:
    """Applies one random operation to each image, in place.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        strength: scales all magnitudes; 1 is the paper's range. AutoContrast and Equalize have no magnitude.
    """
    count = len(images)
    choices = torch.randint(len(OPERATIONS), (count,))
    levels = strength * torch.randint(STRENGTH_STEPS, (count,)) / (STRENGTH_STEPS - 1)
    apply_operations_(images, choices, torch.where(bernoulli(count, 0.5), levels, -levels))


def apply_operations_(images: Tensor, choices: Tensor, levels: Tensor) -> None:
    """Applies operation ``choices[i]`` to image i in place, with one call per operation.

    All geometric operations share a single resampling with different matrices.

    Args:
        images: (B, 3, S, S) float32 in [0, 1].
        choices: (B,) int64 on the CPU, indices into ``OPERATIONS``.
        levels: (B,) float32 on the CPU, magnitudes from -1 to 1 times each operation's limit.
    """
    moved, matrices = [], []
    for index, operation in enumerate(OPERATIONS.values()):
        rows = rows_where(choices == index)
        if operation is None or not len(rows):
            continue
        magnitudes = operation.limit * levels[rows]
        if isinstance(operation, Geometric):
            moved.append(rows)
            matrices.append(operation.matrices(magnitudes))
        else:
            change_rows_(images, rows, operation.apply, magnitudes)
    if moved:
        change_rows_(images, torch.cat(moved), _move, torch.cat(matrices))
