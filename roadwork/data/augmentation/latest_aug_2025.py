"""The default augmentation: flip, TrivialAugment, then CutMix or MixUp with soft labels."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.distributions import Beta

from roadwork.core.errors import ConfigError
from roadwork.data.augmentation.batch_augmentation import (
    BatchAugmentation,
    bernoulli,
    change_rows_,
    per_image,
    rows_where,
    to_device,
)
from roadwork.data.augmentation.trivial_augment import trivial_augment_
from roadwork.settings import TrainAugmentationSettings

CLASSES = 2


def mixup(images: Tensor, soft_labels: Tensor, partner: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Each image blended with its partner (Zhang et al. 2018, arXiv:1710.09412).

    Args:
        images: (B, C, H, W).
        soft_labels: (B, K), each row summing to 1.
        partner: (B,) int64, the row that each row is blended with.
        lam: (B,) weight of the image itself; the partner has weight ``1 - lam``.

    Returns:
        Images and soft labels: ``lam * own + (1 - lam) * partner``.
    """
    own_share = per_image(lam, images)
    mixed = images.index_select(0, partner).mul_(1 - own_share).addcmul_(images, own_share)
    return mixed, _mix_labels(soft_labels, partner, lam)


def cutmix(images: Tensor, soft_labels: Tensor, partner: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Each image with a box of its partner pasted at the same place (Yun et al. 2019, arXiv:1905.04899).

    Args:
        images: (B, C, H, W).
        soft_labels: (B, K), each row summing to 1.
        partner: (B,) int64, the row that each box is cut from.
        boxes: (B, 4) int64 top, bottom, left, right in pixels, within the image; bottom and right are exclusive.

    Returns:
        Images, and soft labels weighted by the exact pixel shares.
    """
    height, width = images.shape[-2:]
    theirs = images.index_select(0, partner)
    mixed = torch.where(inside(boxes, height, width), theirs, images, out=theirs)
    top, bottom, left, right = boxes.unbind(1)
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, _mix_labels(soft_labels, partner, lam)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """True (B, 1, height, width) within ``boxes`` (B, 4): top, bottom, left, right in pixels."""
    top, bottom, left, right = (edge.view(-1, 1) for edge in boxes.unbind(1))
    row, column = torch.arange(height, device=boxes.device), torch.arange(width, device=boxes.device)
    in_rows, in_columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


def draw_boxes(lam: Tensor, height: int, width: int) -> Tensor:
    """Boxes (B, 4) with an area of ``1 - lam`` of the image and a random centre, clipped to the image.

    Args:
        lam: (B,) share to keep, 0 to 1; clipping may keep more.
        height: height of the images in pixels.
        width: width of the images in pixels.
    """
    side = (1 - lam).sqrt()
    edges = []
    for length in (height, width):
        centre, extent = torch.rand(len(lam)) * length, side * length
        edges += [centre - extent / 2, centre + extent / 2]
    limits = torch.tensor([height, height, width, width])
    return torch.minimum(torch.stack(edges, dim=1).round().long().clamp(min=0), limits)


def _mix_labels(soft_labels: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    return torch.lerp(soft_labels[partner], soft_labels, lam.to(soft_labels).view(-1, 1))


class LatestAugmentation2025(BatchAugmentation):
    """Horizontal flip and TrivialAugment per image, CutMix or MixUp per batch; labels become soft, (B, 2) float32.

    In evaluation mode labels are one-hot, with the same shape.
    """

    def __init__(
        self,
        img_size: int,
        *,
        mix_probability: float = 1.0,
        cutmix_share: float = 0.5,
        cutmix_alpha: float = 1.0,
        mixup_alpha: float = 0.2,
        trivial_strength: float = 1.0,
    ) -> None:
        """Stores the settings.

        Args:
            img_size: side of the output in pixels.
            mix_probability: share of batches that are mixed.
            cutmix_share: share of mixed batches that use CutMix; the others use MixUp.
            cutmix_alpha: both parameters of the Beta distribution of CutMix's ``lam``.
            mixup_alpha: the same for MixUp.
            trivial_strength: scales TrivialAugment's magnitudes; 1 is the paper's wide range.

        Raises:
            ConfigError: a share is outside [0, 1], or an alpha is not positive.
        """
        super().__init__(img_size)
        shares = {
            "mix_probability": mix_probability,
            "cutmix_share": cutmix_share,
            "trivial_strength": trivial_strength,
        }
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} is {share}; it must be between 0 and 1.")
        for name, alpha in {"cutmix_alpha": cutmix_alpha, "mixup_alpha": mixup_alpha}.items():
            if not alpha > 0:
                raise ConfigError(f"{name} is {alpha}; it must be above 0. To mix no batch, set mix_probability to 0.")
        self.mix_probability = mix_probability
        self.cutmix_share = cutmix_share
        self.cutmix_alpha = cutmix_alpha
        self.mixup_alpha = mixup_alpha
        self.trivial_strength = trivial_strength

    @classmethod
    def from_settings(cls, settings: TrainAugmentationSettings, img_size: int) -> Self:
        """The augmentation with the settings of ``data.augmentation.train``."""
        return cls(
            img_size=img_size,
            mix_probability=settings.mix_probability,
            cutmix_share=settings.cutmix_share,
            cutmix_alpha=settings.cutmix_alpha,
            mixup_alpha=settings.mixup_alpha,
            trivial_strength=settings.trivial_strength,
        )

    def encode_labels(self, labels: Tensor) -> Tensor:
        """One-hot labels (B, 2) float32."""
        return (labels.view(-1, 1) == torch.arange(CLASSES, device=labels.device)).float()

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images (B, 3, S, S) and soft labels (B, 2); changes ``images`` in place."""
        change_rows_(images, rows_where(bernoulli(len(images), 0.5)), lambda chosen: chosen.flip(-1))
        trivial_augment_(images, self.trivial_strength)
        if not bernoulli(1, self.mix_probability):
            return images, labels
        return self._mix(images, labels)

    def _mix(self, images: Tensor, soft_labels: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        partner = to_device(torch.randperm(count), images.device)
        if bernoulli(1, self.cutmix_share):
            lam = Beta(self.cutmix_alpha, self.cutmix_alpha).sample((count,))
            return cutmix(images, soft_labels, partner, to_device(draw_boxes(lam, height, width), images.device))
        lam = Beta(self.mixup_alpha, self.mixup_alpha).sample((count,))
        return mixup(images, soft_labels, partner, to_device(lam, images.device))
