"""The challenge pictures of StreetVision's profile 2026-01 as an augmentation."""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from roadwork.data.augmentation import geometry
from roadwork.data.augmentation.batch_augmentation import BatchAugmentation, resize
from roadwork.data.augmentation.challenge.distortions import distort_, draw_strengths
from roadwork.data.augmentation.challenge.facts import JPEG_QUALITY, LEVELS, SIZE
from roadwork.data.augmentation.challenge.views import draw_views
from roadwork.data.augmentation.jpeg import compress
from roadwork.errors import ConfigError
from roadwork.settings import TrainAugmentationSettings

DEFAULT_ASPECT = 4 / 3


class StreetVisionAugmentation(BatchAugmentation):
    """Every image becomes a challenge picture of one of four levels, each equally likely; see `challenge.facts`.

    Labels stay as they came, (B,) int64, also where a crop loses the roadwork: the validator does not know either.

    Batches hold whole photos squashed to squares, and challenges are squares cut out of photos. So a photo's aspect is
    needed to show things in the proportions that a challenge shows them in (docs/decisions/0010). The photo is turned
    and cropped in one bilinear sampling. The validator turns to the nearest pixel, but of the photo, whose pixels are
    much finer than those of a batch.
    """

    def __init__(self, img_size: int, *, photo_aspect: float = DEFAULT_ASPECT) -> None:
        """Keeps the settings.

        Args:
            img_size: side of the output in pixels. Pictures are made at 224, as the validator does, then resized.
            photo_aspect: width of a photo over its height.

        Raises:
            ConfigError: if `photo_aspect` is not between 0.2 and 5.
        """
        super().__init__(img_size)
        if not 0.2 <= photo_aspect <= 5:
            raise ConfigError(f"photo_aspect is {photo_aspect}; it must be between 0.2 and 5, width over height.")
        self.photo_aspect = photo_aspect

    @classmethod
    def from_settings(cls, settings: TrainAugmentationSettings, img_size: int) -> Self:
        """The augmentation that ``data.augmentation.train`` describes."""
        return cls(img_size, photo_aspect=settings.photo_aspect)

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) as challenge pictures, and the labels as they came."""
        count = len(images)
        levels = torch.randint(LEVELS, (count,))
        pictures = show(images, draw_views(levels > 0, self.photo_aspect))
        distort_(pictures, draw_strengths(levels))
        pictures = compress(pictures, torch.full((count,), float(JPEG_QUALITY)))
        return resize(pictures, self.img_size), labels


def show(images: Tensor, matrices: Tensor) -> Tensor:
    """(B, 3, 224, 224): what matrices (B, 3, 3) show of images (B, 3, S, S), black outside.

    Where S is above 224, each pixel is the mean of several samples, so that nothing between them is skipped.
    """
    samples = math.ceil(images.shape[-1] / SIZE)
    warped = geometry.warp(resize(images, samples * SIZE), matrices, padding="zeros")
    return F.avg_pool2d(warped, samples) if samples > 1 else warped
