"""No augmentation, for training a head on features that are computed once."""

from __future__ import annotations

from torch import Tensor

from roadwork.data.augmentation.batch_augmentation import BatchAugmentation


class NoAugmentation(BatchAugmentation):
    """Gives every image and label as it came, resized where it has another size."""

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return images, labels
