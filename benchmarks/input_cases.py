"""Decoders from an encoded photo to (size, size, 3) uint8 RGB: ours and common alternatives."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image

from roadwork.data.images import EVALUATION_SCALE, TRAINING_SCALE, decode_image

OURS = "roadwork"
PILLOW = "Pillow, full decode"
# Mean pixel difference on a scale of 255. Different resize filters stay below it; different images exceed it.
MAX_DIFFERENCE = 6.0
Decode = Callable[[bytes], np.ndarray]


def has_opencv() -> bool:
    """Returns whether OpenCV, from the `bench` extra, is installed."""
    return find_spec("cv2") is not None


def opencv() -> Any:
    """Imports OpenCV and limits it to one thread per process, like all contenders."""
    import cv2  # noqa: PLC0415  # an extra

    cv2.setNumThreads(1)
    return cv2


def decoders(size: int, *, is_training: bool) -> dict[str, Decode]:
    """Returns the decoders by name. OpenCV is included if it is installed."""
    scale = TRAINING_SCALE if is_training else EVALUATION_SCALE
    found: dict[str, Decode] = {
        OURS: lambda data: decode_image(data, size, scale),
        PILLOW: lambda data: decode_with_pillow(data, size),
    }
    if has_opencv():
        cv2 = opencv()
        found["OpenCV, full decode"] = lambda data: decode_with_opencv(data, size, cv2.IMREAD_COLOR)
        found["OpenCV, reduced to 1/4"] = lambda data: decode_with_opencv(data, size, cv2.IMREAD_REDUCED_COLOR_4)
    processor = image_processor(size, do_rescale=False, do_normalize=False)
    found["Hugging Face image processor"] = lambda data: (
        processor(open_rgb(data), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0).astype(np.uint8)
    )
    return found


def open_rgb(data: bytes) -> Image.Image:
    """Decodes the full image with Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def decode_with_pillow(data: bytes, size: int) -> np.ndarray:
    """The reference: a full decode, then a bicubic resize with antialiasing."""
    return np.asarray(open_rgb(data).resize((size, size), Image.Resampling.BICUBIC))


def decode_with_opencv(data: bytes, size: int, mode: int) -> np.ndarray:
    """Decodes with OpenCV in the given imread mode, then resizes with area interpolation."""
    cv2 = opencv()
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    return cv2.cvtColor(cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def image_processor(size: int, **options: Any) -> Any:
    """Returns the ViT image processor of transformers that does not need torchvision."""
    from transformers import ViTImageProcessorPil  # noqa: PLC0415  # seconds to import

    return ViTImageProcessorPil(size={"height": size, "width": size}, resample=Image.Resampling.BICUBIC, **options)


def check_decoders(named: dict[str, Decode], encoded: Sequence[bytes], size: int) -> dict[str, float]:
    """Returns each decoder's mean pixel difference from Pillow's full decode, on a scale of 255.

    Raises:
        ValueError: a decoder returns another shape or dtype, or different images.
    """
    expected = np.stack([decode_with_pillow(data, size) for data in encoded])
    differences = {}
    for name, decode in named.items():
        pictures = [decode(data) for data in encoded]
        if any(picture.shape != (size, size, 3) or picture.dtype != np.uint8 for picture in pictures):
            raise ValueError(f"{name} returns {pictures[0].dtype} {pictures[0].shape}, not uint8 {(size, size, 3)}.")
        differences[name] = mean_difference(name, np.stack(pictures), expected)
    return differences


def mean_difference(name: str, pictures: np.ndarray, expected: np.ndarray) -> float:
    """Returns the mean absolute pixel difference, on a scale of 255.

    Raises:
        ValueError: the difference exceeds `MAX_DIFFERENCE`.
    """
    difference = float(np.abs(pictures.astype(np.float32) - expected).mean())
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(f"{name} differs by {difference:.1f} of 255 from {PILLOW}: other images.")
    return difference
