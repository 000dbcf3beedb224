"""Base class of all batch augmentations: input checks, random numbers, resizing, precision.

Random numbers come from torch's global generator on the CPU, whatever the device of the images. So
``torch.manual_seed`` reproduces them on every machine, and selecting rows never waits for the device. Per-pixel noise
is generated on the images' device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadwork.core.errors import ConfigError, DataError
from roadwork.settings import TrainAugmentationSettings

# Bicubic or bfloat16 resizing may overshoot [0, 1] by this much.
RANGE_TOLERANCE = 1e-2
MIN_IMG_SIZE = 8


def uniform(count: int, low: float, high: float) -> Tensor:
    """(count,) float32 samples from [``low``, ``high``), on the CPU."""
    return low + (high - low) * torch.rand(count)


def bernoulli(count: int, probability: float) -> Tensor:
    """(count,) bool samples, True with this probability, on the CPU."""
    return torch.rand(count) < probability


def rows_where(chosen: Tensor) -> Tensor:
    """Indices (N,) int64 of the True values of ``chosen`` (B,), which is on the CPU to avoid a device sync."""
    return chosen.nonzero().squeeze(1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """CPU values copied to the device without waiting for queued work, unlike a plain ``.to``.

    CUDA stages unpinned memory before the call returns, so the source may be freed at once.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) values on the images' device, shaped (B, 1, 1, 1) to broadcast over them."""
    return to_device(values, images.device).view(-1, 1, 1, 1)


def change_rows_(images: Tensor, rows: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """Changes some images of a batch in place, in one call.

    Args:
        images: (B, C, H, W).
        rows: (N,) int64 on the CPU, indices of the images to change; may be empty.
        change: maps a copy of these images (N, C, H, W) and ``values`` to their replacement.
        values: further arguments of ``change``.
    """
    if len(rows):
        rows = to_device(rows, images.device)
        images.index_copy_(0, rows, change(images.index_select(0, rows), *values))


class BatchCheck:
    """Raises DataError unless images are float (B, 3, H, W) in [0, 1] and labels int64 (B,) of 0 and 1.

    Shapes and dtypes are known on the host and checked at once. Value ranges are computed on the device, and reading
    them waits for all work queued there. So on a GPU only the first batch is read at once; the ranges of each later
    batch are copied asynchronously and checked at the next call, one step late. The last batch is never checked.
    """

    pending: AsyncHostCopy | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        check_form(images, labels)
        ranges = torch.stack([*images.detach().aminmax(), *labels.aminmax()])
        if _is_asynchronous(ranges.device):
            previous, self.pending = self.pending, AsyncHostCopy(ranges)
            check_ranges(*(previous or self.pending).read())
        else:
            check_ranges(*ranges.tolist())

    def __getstate__(self) -> dict[str, object]:
        """Empty: a pending device copy cannot be pickled."""
        return {}


class AsyncHostCopy:
    """A copy from the GPU to the host that has been started but not waited for."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.arrival.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The values; waits only for work that was queued before the copy."""
        self.arrival.synchronize()
        read: list[float] = self.values.tolist()
        return read


def _is_asynchronous(device: torch.device) -> bool:
    """Whether operations on this device return before they have finished."""
    return device.type == "cuda"


def check_form(images: Tensor, labels: Tensor) -> None:
    """Raises DataError unless images are float (B, 3, H, W) and labels int64 (B,)."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise DataError(f"images have shape {tuple(images.shape)}; they must be (B, 3, H, W), RGB, not empty.")
    if not images.is_floating_point():
        raise DataError(f"images are {images.dtype}; they must be floats in [0, 1]. Divide 8-bit images by 255.")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"labels have shape {tuple(labels.shape)} for {len(images)} images; they must be ({len(images)},), "
            "one class index per image."
        )
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; they must be torch.int64 class indices, 0 or 1.")


def check_ranges(darkest: float, brightest: float, lowest_label: float, highest_label: float) -> None:
    """Raises DataError unless images are within [0, 1], up to RANGE_TOLERANCE, and labels are 0 or 1."""
    if not (darkest >= -RANGE_TOLERANCE and brightest <= 1 + RANGE_TOLERANCE):  # also where one is NaN
        raise DataError(
            f"images range from {darkest:g} to {brightest:g}; they must be in [0, 1]. "
            "Divide 8-bit values by 255, and normalise after augmentation, not before."
        )
    if lowest_label < 0 or highest_label > 1:
        raise DataError(f"labels range from {lowest_label:g} to {highest_label:g}; allowed: 0 (None) and 1 (Roadwork).")


class BatchAugmentation(nn.Module):
    """Augments a batch on its own device, before normalisation.

    Each image gets its own random numbers from torch's global generator, so ``torch.manual_seed`` reproduces them. In
    evaluation mode (``.eval()``) images are only resized, and labels keep the same form as in training.
    """

    def __init__(self, img_size: int) -> None:
        """Raises ConfigError if ``img_size``, the side of the output in pixels, is below 8."""
        super().__init__()
        if img_size < MIN_IMG_SIZE:
            raise ConfigError(f"img_size is {img_size}; it must be at least {MIN_IMG_SIZE} pixels.")
        self.img_size = img_size
        self.check = BatchCheck()

    @classmethod
    def from_settings(cls, settings: TrainAugmentationSettings, img_size: int) -> Self:  # noqa: ARG003
        """The augmentation with the settings of ``data.augmentation.train``."""
        return cls(img_size)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The augmented batch.

        Args:
            images: (B, 3, H, W) in [0, 1], float32, bfloat16 or float16; computed in float32.
            labels: (B,) int64, 0 or 1.

        Returns:
            Images (B, 3, img_size, img_size) in [0, 1] of the same dtype, and labels.

        Raises:
            DataError: wrong shape, dtype or range; on a GPU a wrong range is reported one call later.
        """
        self.check(images, labels)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            labels = self.encode_labels(labels)
            # No variable here keeps the resized batch alive: augment may replace it, and it is large at 640 pixels.
            if self.training:
                augmented, labels = self.augment(resize(images.float(), self.img_size), labels)
            else:
                augmented = resize(images.float(), self.img_size)
            return augmented.to(images.dtype), labels

    def encode_labels(self, labels: Tensor) -> Tensor:
        """Labels in the form that this augmentation returns: (B,) int64 by default."""
        return labels

    def augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, img_size, img_size) float32 and encoded labels, augmented; may change ``images`` in place."""
        raise NotImplementedError


def resize(images: Tensor, size: int) -> Tensor:
    """A copy of the images as (B, 3, size, size) in [0, 1]; antialiased when shrinking."""
    if images.shape[-2:] == (size, size):
        return images.clamp(0, 1)
    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp_(0, 1)
