"""What every augmentation of a batch has in common: checks, resizing, precision and the evaluation mode."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadwork.data.augmentation.batch_check import BatchCheck
from roadwork.errors import ConfigError
from roadwork.settings import TrainAugmentationSettings

MIN_IMG_SIZE = 8


class BatchAugmentation(nn.Module):
    """Augments a batch on the device where it is; normalisation comes after.

    Every image gets its own draws, from torch's global generator: ``torch.manual_seed`` repeats them. In evaluation
    mode (``.eval()``) it only resizes, and labels keep the form they have in training.
    """

    def __init__(self, img_size: int) -> None:
        """Raises ConfigError where ``img_size``, the side of the output in pixels, is below 8."""
        super().__init__()
        if img_size < MIN_IMG_SIZE:
            raise ConfigError(f"img_size is {img_size}; it must be at least {MIN_IMG_SIZE} pixels.")
        self.img_size = img_size
        self.check = BatchCheck()

    @classmethod
    def from_settings(cls, settings: TrainAugmentationSettings, img_size: int) -> Self:  # noqa: ARG003
        """The augmentation that ``data.augmentation.train`` describes."""
        return cls(img_size)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The augmented batch.

        Args:
            images: (B, 3, H, W) in [0, 1], float32, bfloat16 or float16; computed in float32.
            labels: (B,) int64, 0 or 1.

        Returns:
            Images (B, 3, img_size, img_size) in [0, 1] of the same dtype, and labels.

        Raises:
            DataError: if images or labels are not of this form; where their values are not, on a GPU at the next call.
        """
        self.check(images, labels)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            labels = self.encode_labels(labels)
            # No name here holds the copy that augment may replace: another batch of memory, at 640 pixels.
            if self.training:
                augmented, labels = self.augment(resize(images.float(), self.img_size), labels)
            else:
                augmented = resize(images.float(), self.img_size)
            return augmented.to(images.dtype), labels

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Labels in the form that this augmentation returns; (B,) int64 by default."""
        return labels

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, img_size, img_size) float32 and encoded labels, augmented; may change ``images`` in place."""
        raise NotImplementedError


def resize(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, size, size) in [0, 1], in memory of their own; antialiased where they shrink."""
    if images.shape[-2:] == (size, size):
        return images.clamp(0, 1)
    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp_(0, 1)
