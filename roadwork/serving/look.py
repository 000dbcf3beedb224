"""The picture of where the detector looked."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from roadwork.data.images import decode_short_side
from roadwork.data.pixels import to_network_input
from roadwork.inference.detector import Detector
from roadwork.inference.networks import TorchNetwork

SHORT_SIDE = 480  # pixels of the picture


class Looker:
    """Draws where a detector looked: by gradients, or, as ONNX has none, by covering the photo part by part."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def look(self, pixels: torch.Tensor) -> np.ndarray:
        """(h, w) in [0, 1]: how much each part of a photo (3, S, S) uint8 spoke for Roadwork. One thread at a time."""
        from roadwork.inference import saliency  # noqa: PLC0415 -- transformers, which takes seconds

        detector = self._detector
        normalised = to_network_input(pixels[None].to(detector.device), detector.preprocessing.statistics)
        if isinstance(detector.network, TorchNetwork):
            return saliency.look_map(detector.network.module, normalised)
        return saliency.occlusion_map(detector.network, normalised)

    @staticmethod
    def draw(data: bytes, look: np.ndarray) -> bytes:
        """A PNG of the encoded photo under what `look` gave for it, in the photo's own aspect.

        Raises:
            UnreadableImageError: as `decode_short_side`.
        """
        from roadwork.inference import saliency  # noqa: PLC0415

        drawn = saliency.overlay(decode_short_side(data, SHORT_SIDE), look)
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
