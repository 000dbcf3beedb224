"""The default augmentation: flip, TrivialAugment, then CutMix or MixUp with soft labels."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from torch.distributions import Beta

from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.draws import change_rows_, coin, rows_where, to_device
from roadwork.data.augmentation.mixing import cutmix, draw_boxes, mixup
from roadwork.data.augmentation.trivial_augment import trivial_augment_
from roadwork.errors import ConfigError
from roadwork.settings import TrainAugmentationSettings

CLASSES = 2


class LatestAugmentation2025(BatchAugmentation):
    """Horizontal flip and TrivialAugment an image, CutMix or MixUp a batch; labels become soft, (B, 2) float32.

    In evaluation mode labels are one-hot, of the same shape.
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
        """Keeps the settings.

        Args:
            img_size: side of the output in pixels.
            mix_probability: share of batches that are mixed.
            cutmix_share: of the mixed batches, the share that is CutMix; the others are MixUp.
            cutmix_alpha: both parameters of the Beta distribution that CutMix draws the share kept from.
            mixup_alpha: the same, for MixUp.
            trivial_strength: scales TrivialAugment's magnitudes; 1 is the paper's wide range.

        Raises:
            ConfigError: if a share is outside [0, 1] or an alpha is not positive.
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
        """The augmentation that ``data.augmentation.train`` describes."""
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
        """Images (B, 3, S, S) and soft labels (B, 2), augmented; changes ``images``."""
        change_rows_(images, rows_where(coin(len(images), 0.5)), lambda chosen: chosen.flip(-1))
        trivial_augment_(images, self.trivial_strength)
        if not coin(1, self.mix_probability):
            return images, labels
        return self._mix(images, labels)

    def _mix(self, images: Tensor, soft_labels: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        partner = to_device(torch.randperm(count), images.device)
        if coin(1, self.cutmix_share):
            lam = Beta(self.cutmix_alpha, self.cutmix_alpha).sample((count,))
            return cutmix(images, soft_labels, partner, to_device(draw_boxes(lam, height, width), images.device))
        lam = Beta(self.mixup_alpha, self.mixup_alpha).sample((count,))
        return mixup(images, soft_labels, partner, to_device(lam, images.device))
