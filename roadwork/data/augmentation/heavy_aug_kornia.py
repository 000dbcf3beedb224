"""Heavy augmentation: geometry, colour, weather, and what lens, sensor and compression do to a street image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia.augmentation import RandomErasing
from kornia.filters import motion_blur
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.color import color_twist
from roadwork.data.augmentation.draws import change_rows_, coin, per_image, rows_where, to_device, uniform
from roadwork.data.augmentation.jpeg import compress
from roadwork.data.augmentation.weather import random_weather_


def _move_camera(images: Tensor) -> Tensor:
    """Mirroring, rotation, zoom, translation and perspective, in one sampling."""
    count = len(images)
    matrices = (
        geometry.mirror(coin(count, 0.5))
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
        hue_shifts_deg=uniform(count, -12, 12),  # narrow: orange is what roadwork is told by
    )


def _blur(images: Tensor) -> Tensor:
    """A moving camera: kornia's lines, whose border goes on outside and which are turned without gaps."""
    count, longest = len(images), max(3, images.shape[-1] // 32)
    size = 1 + 2 * int(torch.randint(1, (longest + 1) // 2, (1,)))  # odd, and one for all, since they share a call
    angles_deg, directions = (to_device(uniform(count, -limit, limit), images.device) for limit in (180, 0.5))
    blurred: Tensor = motion_blur(images, size, angles_deg, directions, border_type="replicate", mode="bilinear")
    return blurred


def _add_noise(images: Tensor) -> Tensor:
    sigmas = per_image(uniform(len(images), 0.01, 0.05), images)
    return torch.randn_like(images).mul_(sigmas).add_(images).clamp_(0, 1)


def _compress(images: Tensor) -> Tensor:
    return compress(images, uniform(len(images), 25, 90))


def _erase(images: Tensor) -> Tensor:
    """A grey box in each image, small: one that hides the only cone makes the label wrong."""
    erased: Tensor = RandomErasing(scale=(0.005, 0.03), ratio=(0.4, 2.5), value=0.5, p=1.0)(images)
    return erased


@dataclass(frozen=True)
class Stage:
    """Something that happens to a share of the images: (N, 3, S, S) to as many, in [0, 1]."""

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
    """In the order in which a picture comes about: viewpoint, light, weather, lens, sensor, compression; erasing last.

    Every image gets a viewpoint of its own; each of the others happens to a share of the images. Labels stay as they
    came, (B,) int64.
    """

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) augmented, and the labels as they came."""
        images = _move_camera(images)
        for stage in STAGES.values():
            change_rows_(images, rows_where(coin(len(images), stage.share)), stage.change)
        return images.clamp_(0, 1), labels
