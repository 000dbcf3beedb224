"""Heavy augmentation: geometry, colour, weather, lens, sensor and compression.

kornia 0.9 draws rain in a fixed grey and size, its snow only brightens dark pixels, and its plasma fractals for fog and
shadow take 1.6 to 3.4 ms per image of 96 pixels. The weather here scales with the image and takes under 0.2 ms.
Each function takes images (N, 3, S, S) float32 in [0, 1], returns new ones in the same range, and uses new random
numbers for every image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.augmentation import RandomErasing
from kornia.filters import motion_blur
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import (
    BatchAugmentation,
    bernoulli,
    change_rows_,
    per_image,
    rows_where,
    to_device,
    uniform,
)
from roadwork.data.augmentation.color import color_twist, compress


def _blend_grey(images: Tensor, color: float, opacity: Tensor) -> Tensor:
    """Images blended with a uniform grey at this opacity (N, 1, S, S)."""
    return (images * (1 - opacity)).add_(color * opacity)


def _random_specks(images: Tensor, size: int, low: float, high: float) -> Tensor:
    """A random mask (N, 1, size, size); the share of True pixels per image is between ``low`` and ``high``."""
    shares = per_image(uniform(len(images), low, high), images)
    return torch.rand(len(images), 1, size, size, device=images.device) < shares


def _lengthen(specks: Tensor, half_length: int) -> Tensor:
    """Specks (N, 1, S, S) extended up and down by ``half_length`` pixels, in logarithmically many passes."""
    length, grown = 1, F.pad(specks, (0, 0, half_length, half_length))
    while length < 2 * half_length + 1:
        step = min(length, 2 * half_length + 1 - length)
        grown = grown[:, :, :-step] | grown[:, :, step:]
        length += step
    return grown


def rain(images: Tensor) -> Tensor:
    """Slanted, half-transparent streaks and a grey haze."""
    count, size = len(images), images.shape[-1]
    streaks = _lengthen(_random_specks(images, size, 0.002, 0.008), max(1, size // 28)).float()
    streaks = geometry.warp(streaks, geometry.shear_x(uniform(count, -0.3, 0.3)), padding="reflection")
    haze = per_image(uniform(count, 0.05, 0.2), images)
    return _blend_grey(_blend_grey(images, 0.5, haze), 0.85, 0.5 * streaks)


def snow(images: Tensor) -> Tensor:
    """Soft white flakes in front of a paler scene."""
    count, size = len(images), images.shape[-1]
    flakes = F.interpolate(
        _random_specks(images, max(4, min(size // 2, 128)), 0.01, 0.05).float(),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
    )
    haze = per_image(uniform(count, 0.1, 0.3), images)
    return _blend_grey(_blend_grey(images, 0.9, haze), 1.0, 0.9 * flakes)


def fog(images: Tensor) -> Tensor:
    """Uneven light grey, denser towards the top, where a street scene is far away."""
    count, size = len(images), images.shape[-1]
    drifts = F.interpolate(
        torch.rand(count, 1, 5, 5, device=images.device), size=(size, size), mode="bilinear", align_corners=True
    )
    distance = torch.linspace(1.0, 0.4, size, device=images.device).view(1, 1, -1, 1)
    density = per_image(uniform(count, 0.3, 0.75), images)
    return _blend_grey(images, 0.8, density * distance * (0.6 + 0.4 * drifts))


def shadow(images: Tensor) -> Tensor:
    """A dark band with soft edges, at any angle."""
    count, size = len(images), images.shape[-1]
    axis = torch.linspace(-1, 1, size, device=images.device)
    angles = per_image(uniform(count, 0, torch.pi), images)
    offset = per_image(uniform(count, -0.6, 0.6), images)
    across = angles.cos() * axis.view(1, 1, 1, -1) + angles.sin() * axis.view(1, 1, -1, 1) - offset
    half_width = per_image(uniform(count, 0.15, 0.6), images)
    darkness = per_image(uniform(count, 0.3, 0.6), images)
    return images * (1 - darkness * torch.sigmoid(25 * (half_width - across.abs())))


CONDITIONS = (rain, snow, fog, shadow)


def random_weather_(images: Tensor) -> Tensor:
    """Applies one random condition to each of the images (N, 3, S, S), in place."""
    choices = torch.randint(len(CONDITIONS), (len(images),))
    for index, condition in enumerate(CONDITIONS):
        change_rows_(images, rows_where(choices == index), condition)
    return images


def _move_camera(images: Tensor) -> Tensor:
    """Mirroring, rotation, zoom, translation and perspective, in one resampling."""
    count = len(images)
    matrices = (
        geometry.mirror(bernoulli(count, 0.5))
        @ geometry.rotate(uniform(count, -8, 8))
        @ geometry.zoom(uniform(count, 0.85, 1.25))
        @ geometry.translate_x(uniform(count, -0.08, 0.08))
        @ geometry.translate_y(uniform(count, -0.08, 0.08))
        @ geometry.perspective(uniform(count, -0.12, 0.12), uniform(count, -0.12, 0.12))
    )
    return geometry.warp(images, matrices, padding="reflection")


def _change_light(images: Tensor) -> Tensor:
    count = len(images)
    return color_twist(
        images,
        brightness=uniform(count, 0.65, 1.35),
        contrast=uniform(count, 0.7, 1.3),
        saturation=uniform(count, 0.6, 1.4),
        hue_shifts_deg=uniform(count, -12, 12),  # narrow, since orange is a main cue for roadwork
    )


def _blur(images: Tensor) -> Tensor:
    """Motion blur with kornia, with replicated borders and bilinear rotation of the kernel."""
    count, longest = len(images), max(3, images.shape[-1] // 32)
    size = 1 + 2 * int(torch.randint(1, (longest + 1) // 2, (1,)))  # odd, and shared by all images
    angles_deg, directions = (to_device(uniform(count, -limit, limit), images.device) for limit in (180, 0.5))
    blurred: Tensor = motion_blur(images, size, angles_deg, directions, border_type="replicate", mode="bilinear")
    return blurred


def _add_noise(images: Tensor) -> Tensor:
    sigmas = per_image(uniform(len(images), 0.01, 0.05), images)
    return torch.randn_like(images).mul_(sigmas).add_(images).clamp_(0, 1)


def _compress(images: Tensor) -> Tensor:
    return compress(images, uniform(len(images), 25, 90))


def _erase(images: Tensor) -> Tensor:
    """A small grey box in each image; a large one could hide the only cone and make the label wrong."""
    erased: Tensor = RandomErasing(scale=(0.005, 0.03), ratio=(0.4, 2.5), value=0.5, p=1.0)(images)
    return erased


@dataclass(frozen=True)
class Stage:
    """A transform of images (N, 3, S, S) in [0, 1], and the share of images that it applies to."""

    share: float
    change: Callable[[Tensor], Tensor]


STAGES = {
    "light": Stage(0.8, _change_light),
    "weather": Stage(0.4, random_weather_),
    "blur": Stage(0.2, _blur),
    "noise": Stage(0.3, _add_noise),
    "JPEG": Stage(0.3, _compress),
    "erasing": Stage(0.25, _erase),
}


class HeavyAugmentationKornia(BatchAugmentation):
    """Transforms in physical order: viewpoint, light, weather, lens, sensor, compression; then erasing.

    Every image gets its own viewpoint; each other stage applies to a share of the images. Labels are unchanged,
    (B,) int64.
    """

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, S, S) and unchanged labels."""
        images = _move_camera(images)
        for stage in STAGES.values():
            change_rows_(images, rows_where(bernoulli(len(images), stage.share)), stage.change)
        return images.clamp_(0, 1), labels
