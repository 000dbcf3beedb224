"""The base class of all batch augmentations: checks, random draws, resizing, precision.

They come from torch's global generator on the CPU, whatever the device of the images: ``torch.manual_seed`` repeats
them on every machine, and choosing rows never waits for the device. Noise fields, which have a value a pixel, are
drawn on the images' device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roadwork.core.errors import ConfigError, DataError
from roadwork.settings import TrainAugmentationSettings

# Bicubic or bf16 resizing upstream may overshoot by this much.
RANGE_TOLERANCE = 1e-2
MIN_IMG_SIZE = 8


def uniform(count: int, low: float, high: float) -> Tensor:
    """(count,) float32 values between ``low`` and ``high``, on the CPU."""
    return low + (high - low) * torch.rand(count)


def bernoulli(count: int, probability: float) -> Tensor:
    """(count,) bool, each True with this probability, on the CPU."""
    return torch.rand(count) < probability


def rows_where(chosen: Tensor) -> Tensor:
    """Positions (N,) int64 of the True ones of ``chosen`` (B,), on the CPU, where counting them is free."""
    return chosen.nonzero().squeeze(1)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Values of the CPU on the device, without waiting for what is queued there, as a plain ``.to`` does.

    CUDA stages memory that is not pinned before the call returns, so that the source may be freed at once.
    """
    return values.to(device, non_blocking=device.type == "cuda")


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """(B,) values moved to the images' device, and shaped (B, 1, 1, 1) to broadcast over them."""
    return to_device(values, images.device).view(-1, 1, 1, 1)


def change_rows_(images: Tensor, rows: Tensor, change: Callable[..., Tensor], *values: Tensor) -> None:
    """Changes some images of a batch in place, all in one call.

    Args:
        images: (B, C, H, W).
        rows: (N,) int64 on the CPU, positions of those to change; none is allowed.
        change: takes a copy of them, (N, C, H, W), and ``values``, and gives what replaces them.
        values: further arguments of ``change``.
    """
    if len(rows):
        rows = to_device(rows, images.device)
        images.index_copy_(0, rows, change(images.index_select(0, rows), *values))


class BatchCheck:
    """Raises DataError unless images are float (B, 3, H, W) in [0, 1] and labels int64 (B,) of 0 and 1.

    Form is known on the host. Ranges are values of the device, and reading one waits for the whole training step that
    is queued there: on a GPU the first batch alone is waited for. Of each later one the ranges are measured too, and
    read at the next call, when they have long arrived. A wrong batch is named, one step late; no batch goes unmeasured,
    and only the last of all goes unread.
    """

    late: AsyncHostCopy | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        check_form(images, labels)
        ranges = torch.stack([*images.detach().aminmax(), *labels.aminmax()])
        if _is_asynchronous(ranges.device):
            earlier, self.late = self.late, AsyncHostCopy(ranges)
            check_ranges(*(earlier or self.late).read())
        else:
            check_ranges(*ranges.tolist())

    def __getstate__(self) -> dict[str, object]:
        """Nothing: what is on its way from a device cannot be pickled."""
        return {}


class AsyncHostCopy:
    """Values on their way from the GPU."""

    def __init__(self, values: Tensor) -> None:
        self.values = values.to("cpu", non_blocking=True)
        self.arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
        self.arrival.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[float]:
        """The values; waits for what was queued before them, and for nothing after."""
        self.arrival.synchronize()
        read: list[float] = self.values.tolist()
        return read


def _is_asynchronous(device: torch.device) -> bool:
    """Whether the host queues work for this device, and goes on."""
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
            "one class index an image."
        )
    if labels.dtype != torch.int64:
        raise DataError(f"labels are {labels.dtype}; they must be torch.int64 class indices, 0 or 1.")


def check_ranges(darkest: float, brightest: float, lowest_label: float, highest_label: float) -> None:
    """Raises DataError unless images are within [0, 1], or nearly, and labels are 0 and 1."""
    if not (darkest >= -RANGE_TOLERANCE and brightest <= 1 + RANGE_TOLERANCE):  # also where one is NaN
        raise DataError(
            f"images range from {darkest:g} to {brightest:g}; they must be in [0, 1]. "
            "Divide 8-bit values by 255, and normalise after augmentation, not before."
        )
    if lowest_label < 0 or highest_label > 1:
        raise DataError(f"labels range from {lowest_label:g} to {highest_label:g}; allowed: 0 (None) and 1 (Roadwork).")


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
