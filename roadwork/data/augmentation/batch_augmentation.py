"""What every augmentation of a batch has in common: checks, resizing, precision and the evaluation mode."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadwork.errors import ConfigError, DataError
from roadwork.settings import TrainAugmentationSettings

MIN_IMG_SIZE = 8
# Bicubic or bf16 resizing upstream may overshoot by this much.
RANGE_TOLERANCE = 1e-2


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
            DataError: if images or labels are not of this form.
        """
        check_batch(images, labels)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            augmented = resize(images.float(), self.img_size)
            labels = self.encode_labels(labels)
            if self.training:
                augmented, labels = self.augment(augmented, labels)
            return augmented.to(images.dtype), labels

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Labels in the form that this augmentation returns; (B,) int64 by default."""
        return labels

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, img_size, img_size) float32 and encoded labels, augmented; does not change its arguments."""
        raise NotImplementedError


def resize(images: Tensor, size: int) -> Tensor:
    """Images (B, 3, size, size) in [0, 1]; antialiased where they shrink, untouched where they already fit."""
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return images.clamp(0, 1)


def check_batch(images: Tensor, labels: Tensor) -> None:
    """Raises DataError unless images are float (B, 3, H, W) in [0, 1] and labels int64 (B,) of 0 and 1."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise DataError(f"images have shape {tuple(images.shape)}; they must be (B, 3, H, W), RGB, not empty.")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; they must be floats in [0, 1]. Divide 8-bit images by 255.")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"labels have shape {tuple(labels.shape)} for {len(images)} images; they must be ({len(images)},), "
            "one class index an image."
        )
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; they must be torch.int64 class indices, 0 or 1.")
    # One transfer for all four: each would wait for the device.
    darkest, brightest, lowest, highest = torch.stack(
        [values.double() for values in (*images.aminmax(), *labels.aminmax())]
    ).tolist()
    if not (darkest >= -RANGE_TOLERANCE and brightest <= 1 + RANGE_TOLERANCE):  # also where one is NaN
        raise DataError(
            f"images range from {darkest:g} to {brightest:g}; they must be in [0, 1]. "
            "Divide 8-bit values by 255, and normalise after augmentation, not before."
        )
    if lowest < 0 or highest > 1:
        raise DataError(f"labels range from {lowest:g} to {highest:g}; allowed: 0 (None) and 1 (Roadwork).")
