"""The registry of training augmentations, by `data.augmentation.train.mode`."""

from __future__ import annotations

import difflib

from torch import Tensor

from roadwork.core.errors import ConfigError
from roadwork.data.augmentation.batch_augmentation import BatchAugmentation
from roadwork.data.augmentation.heavy_aug_kornia import HeavyAugmentationKornia
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025
from roadwork.data.augmentation.streetvision import StreetVisionAugmentation
from roadwork.data.augmentation.zoom_out import ZoomOutAugmentation
from roadwork.settings import TrainAugmentationSettings


class NoAugmentation(BatchAugmentation):
    """Only resizes images; labels are unchanged."""

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels


# The modes are those of settings.AUGMENTATION_MODES; a test compares the two.
AUGMENTATIONS: dict[str, type[BatchAugmentation]] = {
    "latest_2025": LatestAugmentation2025,
    "heavy_kornia": HeavyAugmentationKornia,
    "streetvision": StreetVisionAugmentation,
    "zoom_out": ZoomOutAugmentation,
    "none": NoAugmentation,
}


def build_train_augmentation(settings: TrainAugmentationSettings, img_size: int) -> BatchAugmentation:
    """The augmentation of ``data.augmentation.train`` for images of ``img_size`` pixels.

    Raises:
        ConfigError: the mode is unknown, or a setting is out of range.
    """
    if settings.mode not in AUGMENTATIONS:
        nearest = difflib.get_close_matches(str(settings.mode), AUGMENTATIONS, n=1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(
            f"Unknown augmentation mode: {settings.mode!r}. Allowed for "
            f"data.augmentation.train.mode: {', '.join(AUGMENTATIONS)}.{hint}"
        )
    return AUGMENTATIONS[settings.mode].from_settings(settings, img_size)
