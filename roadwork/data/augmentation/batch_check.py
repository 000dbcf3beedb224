"""What a batch must be before it is augmented, checked without holding up the device."""

from __future__ import annotations

import torch
from torch import Tensor

from roadwork.errors import DataError

# Bicubic or bf16 resizing upstream may overshoot by this much.
RANGE_TOLERANCE = 1e-2


class BatchCheck:
    """Raises DataError unless images are float (B, 3, H, W) in [0, 1] and labels int64 (B,) of 0 and 1.

    Form is known on the host. Ranges are values of the device, and reading one waits for the whole training step that
    is queued there: on a GPU the first batch alone is waited for. Of each later one the ranges are measured too, and
    read at the next call, when they have long arrived. A wrong batch is named, one step late; no batch goes unmeasured,
    and only the last of all goes unread.
    """

    late: HostCopy | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        check_form(images, labels)
        ranges = torch.stack([*images.detach().aminmax(), *labels.aminmax()])
        if _runs_ahead(ranges.device):
            earlier, self.late = self.late, HostCopy(ranges)
            check_ranges(*(earlier or self.late).read())
        else:
            check_ranges(*ranges.tolist())

    def __getstate__(self) -> dict[str, object]:
        """Nothing: what is on its way from a device cannot be pickled."""
        return {}


class HostCopy:
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


def _runs_ahead(device: torch.device) -> bool:
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
