"""Heavy augmentation: geometry, colour, weather, and what lens, sensor and compression do to a street image."""

from __future__ import annotations

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
        images = _change_light(images)
        images = random_weather(images, WEATHER_SHARE)
        images = self.blur(images)
        images = _add_noise(images)
        images = _compress(images)
        return self.erasing(images).clamp(0, 1), labels


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
    is_changed = coin(count, COLOR_SHARE)
    return color_twist(
        images,
        brightness=torch.where(is_changed, uniform(count, 0.65, 1.35), 1.0),
        contrast=torch.where(is_changed, uniform(count, 0.7, 1.3), 1.0),
        saturation=torch.where(is_changed, uniform(count, 0.6, 1.4), 1.0),
        # Narrow: orange is what roadwork is told by.
        hue_shifts_deg=torch.where(is_changed, uniform(count, -12, 12), 0.0),
    )


def _add_noise(images: Tensor) -> Tensor:
    """Gaussian noise of a strength of its own on a share of the images."""
    rows = _draw_rows(images, NOISE_SHARE)
    sigmas = per_image(uniform(len(rows), 0.01, 0.05), images)
    noise = torch.randn(len(rows), *images.shape[1:], device=images.device)
    return images.index_copy(0, rows, (images[rows] + sigmas * noise).clamp(0, 1))


def _compress(images: Tensor) -> Tensor:
    """JPEG artefacts on a share of the images."""
    rows = _draw_rows(images, JPEG_SHARE)
    return images.index_copy(0, rows, compress(images[rows], uniform(len(rows), 25, 90)))


def _draw_rows(images: Tensor, share: float) -> Tensor:
    return coin(len(images), share).nonzero().squeeze(1).to(images.device)
