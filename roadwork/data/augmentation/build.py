"""Builds the augmentation that data.augmentation.train.mode names."""

from __future__ import annotations

import difflib

from torch import Tensor

from roadwork.core.errors import ConfigError
from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.heavy_aug_kornia import HeavyAugmentationKornia
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025
from roadwork.data.augmentation.streetvision import StreetVisionAugmentation
from roadwork.settings import TrainAugmentationSettings


class NoAugmentation(BatchAugmentation):
    """Gives every image and label as it came, resized where it has another size."""

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels


AUGMENTATIONS: dict[str, type[BatchAugmentation]] = {
    "latest_2025": LatestAugmentation2025,
    "heavy_kornia": HeavyAugmentationKornia,
    "streetvision": StreetVisionAugmentation,
    "none": NoAugmentation,
}


def build_train_augmentation(settings: TrainAugmentationSettings, img_size: int) -> BatchAugmentation:
    """The augmentation that ``data.augmentation.train`` names, for images of ``img_size`` pixels.

    Raises:
        ConfigError: if there is no such mode, or one of its settings is out of range.
    """
    if settings.mode not in AUGMENTATIONS:
        nearest = difflib.get_close_matches(str(settings.mode), AUGMENTATIONS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(
            f"Unknown augmentation mode: {settings.mode!r}. data.augmentation.train.mode can be "
            f"{', '.join(AUGMENTATIONS)}.{hint}"
        )
    return AUGMENTATIONS[settings.mode].from_settings(settings, img_size)
