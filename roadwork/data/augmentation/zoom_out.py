"""Shrinks photos onto other streets, so that close-ups become small and distant, with hard crops of None photos."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import (
    BatchAugmentation,
    bernoulli,
    change_rows_,
    rows_where,
    to_device,
    uniform,
)
from roadwork.data.augmentation.color import color_twist, compress

# The shorter side of a pasted photo, as a share of the background's.
SMALLEST, LARGEST = 0.12, 0.5
MIN_CROP_AREA = 0.1
FEATHER = 0.08  # width of the soft border, as a share of the pasted photo's side


class ZoomOutAugmentation(BatchAugmentation):
    """Pastes shrunk photos onto None photos of the batch, crops None photos, and changes colour and compression.

    In collected photos roadwork often fills the picture; on a dashcam it is small. A photo that is pasted onto a None
    photo keeps its label. None photos are pasted too, half of them in other colours, so that neither a paste nor a
    colourful object tells the label. Crops of None photos show large objects that are not roadwork.

    Args:
        img_size: side of the output in pixels.
        paste_probability: share of the photos that are pasted onto a None photo, if the batch has one.
        crop_probability: share of the None photos that are cropped.
    """

    def __init__(self, img_size: int, paste_probability: float = 0.5, crop_probability: float = 0.5) -> None:
        super().__init__(img_size)
        self.paste_probability = paste_probability
        self.crop_probability = crop_probability

    @override
    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        count = len(images)
        is_none = labels.cpu() == 0
        change_rows_(images, rows_where(is_none & bernoulli(count, self.crop_probability)), _crop)
        images = geometry.warp(images, geometry.mirror(bernoulli(count, 0.5)), padding="border")
        pasted = rows_where(bernoulli(count, self.paste_probability))
        if is_none.any():
            images = paste(images, pasted, rows_where(is_none), is_none & bernoulli(count, 0.5))
        images = color_twist(
            images,
            brightness=uniform(count, -0.45, 0.45).exp(),
            contrast=uniform(count, -0.35, 0.35).exp(),
            saturation=uniform(count, -0.4, 0.4).exp(),
            hue_shifts_deg=uniform(count, -8, 8),
        )
        tints = to_device(uniform(3 * count, -0.1, 0.1).exp().view(count, 3, 1, 1), images.device)
        images = (images * tints).clamp_(0, 1)
        change_rows_(images, rows_where(bernoulli(count, 0.35)), _compress)
        return images, labels


def paste(images: Tensor, pasted: Tensor, backgrounds: Tensor, is_recolored: Tensor) -> Tensor:
    """The images, with those of some rows shrunk onto random backgrounds of the same batch.

    Args:
        images: (B, 3, S, S).
        pasted: (P,) rows to shrink.
        backgrounds: (N,) rows of None photos, at least one.
        is_recolored: (B,) rows that change their colours when they are pasted.
    """
    size, result = images.shape[-1], images.clone()
    sides = uniform(len(pasted), math.log(SMALLEST), math.log(LARGEST)).exp().mul(size).round().int().tolist()
    chosen = backgrounds[torch.randint(len(backgrounds), (len(pasted),))].tolist()
    lefts, centres = torch.rand(len(pasted)).tolist(), uniform(len(pasted), 0.4, 0.9).tolist()
    for row, background, side, left, centre in zip(pasted.tolist(), chosen, sides, lefts, centres, strict=True):
        side = max(side, 2)  # noqa: PLW2901
        x = round(left * (size - side))
        y = min(max(round(centre * size - side / 2), 0), size - side)
        small = F.interpolate(images[row : row + 1], size=(side, side), mode="bilinear", antialias=True)
        small = (_recolor(small) if is_recolored[row] else small)[0]
        place = (row, slice(None), slice(y, y + side), slice(x, x + side))
        result[row] = images[background]
        result[place] = torch.lerp(result[place], small, _feather(side, images.device))
    return result


def _feather(side: int, device: torch.device) -> Tensor:
    """(side, side) weights: 1 inside, falling to 0 at the border."""
    distance = (torch.arange(side, device=device) + 0.5) / side
    ramp = (torch.minimum(distance, 1 - distance) / FEATHER).clamp(max=1)
    return torch.minimum(ramp[:, None], ramp[None])


def _crop(images: Tensor) -> Tensor:
    """Random crops of at least `MIN_CROP_AREA` of the image, resized back."""
    count = len(images)
    shares = uniform(count, MIN_CROP_AREA, 1.0).sqrt()
    room = (1 - shares) / 2
    offsets = [room * uniform(count, -1, 1) for _ in range(2)]
    matrices = geometry.translate_x(offsets[0]) @ geometry.translate_y(offsets[1]) @ geometry.zoom(1 / shares)
    return geometry.warp(images, matrices, padding="border")


def _recolor(images: Tensor) -> Tensor:
    """Images with their channels in random order, each multiplied by a random factor."""
    count = len(images)
    orders = torch.rand(count, 3).argsort(dim=1).to(images.device)
    gains = to_device(uniform(3 * count, -0.7, 0.7).exp().view(count, 3, 1, 1), images.device)
    return (images[torch.arange(count, device=images.device)[:, None], orders] * gains).clamp(0, 1)


def _compress(images: Tensor) -> Tensor:
    return compress(images, uniform(len(images), 30, 80))
