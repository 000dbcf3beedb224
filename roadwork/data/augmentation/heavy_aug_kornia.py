"""Heavy augmentation: geometry, colour, weather, and what lens, sensor and compression do to a street image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia.augmentation import RandomErasing, RandomMotionBlur
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.color import color_twist
from roadwork.data.augmentation.draws import coin, per_image, uniform
from roadwork.data.augmentation.jpeg import compress
from roadwork.data.augmentation.weather import random_weather

COLOR_SHARE = 0.8
WEATHER_SHARE = 0.4
BLUR_SHARE = 0.2
NOISE_SHARE = 0.3
JPEG_SHARE = 0.3
ERASING_SHARE = 0.25


class HeavyAugmentationKornia(BatchAugmentation):
    """In the order in which a picture comes about: viewpoint, light, weather, lens, sensor, compression; erasing last.

    Every image gets a viewpoint of its own; each of the others happens to a share of the images. Labels stay as they
    came, (B,) int64.
    """

    def __init__(self, img_size: int) -> None:
        """Builds the stages that kornia has; their sizes follow ``img_size``, in pixels.

        Raises:
            ConfigError: if ``img_size`` is below 8.
        """
        super().__init__(img_size)
        self.blur = RandomMotionBlur(
            kernel_size=(3, max(3, img_size // 32)),
            angle=180.0,
            direction=0.5,
            border_type="replicate",  # kornia's default darkens the border
            resample="bilinear",  # its default, nearest, turns short kernels into nothing at some angles
            p=BLUR_SHARE,
        )
        # Small: a box that hides the only cone makes the label wrong.
        self.erasing = RandomErasing(scale=(0.005, 0.03), ratio=(0.4, 2.5), value=0.5, p=ERASING_SHARE)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) augmented, and the labels as they came."""
        images = _move_camera(images)
        images = _change_some(images, COLOR_SHARE, _change_light)
        images = _change_some(images, WEATHER_SHARE, random_weather)
        images = self.blur(images)
        images = _change_some(images, NOISE_SHARE, _add_noise)
        images = _change_some(images, JPEG_SHARE, _compress)
        return self.erasing(images).clamp(0, 1), labels


def _change_some(images: Tensor, share: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Images with ``change`` applied to each with the probability ``share``."""
    rows = coin(len(images), share).nonzero().squeeze(1).to(images.device)
    return images.index_copy(0, rows, change(images[rows])) if len(rows) else images


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


def _add_noise(images: Tensor) -> Tensor:
    sigmas = per_image(uniform(len(images), 0.01, 0.05), images)
    return (images + sigmas * torch.randn_like(images)).clamp(0, 1)


def _compress(images: Tensor) -> Tensor:
    return compress(images, uniform(len(images), 25, 90))
