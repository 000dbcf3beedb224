"""An exported detector, loaded: photos in, calibrated answers out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadwork.core.errors import DataError
from roadwork.data.images import FORMATS, UnreadableImageError, read_pixels, to_network_input
from roadwork.detector.format import ExportFacts, Preprocessing
from roadwork.detector.networks import choose_device, load_network

ROADWORK, NONE = "Roadwork", "None"


Photo = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """What a detector says of a photo.

    Attributes:
        label: `Roadwork` or `None`, decided at the calibrated threshold.
        probability: calibrated, of Roadwork.
        abstain: whether it is too near the threshold to be answered at the risk that calibration was given.
    """

    label: str
    probability: float
    abstain: bool


class Detector:
    """An exported detector.

        detector = Detector.load("model")
        detector("photo.jpg")  # Prediction(label='Roadwork', probability=0.93, abstain=False)

    Attributes:
        network: maps what it takes, (B, 3, S, S) float32, to folded logits (B, 2), both on `device`.
        preprocessing: how a photo becomes that.
        facts: the calibration that is folded into its head.
        device: where it computes.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing,
        facts: ExportFacts,
        device: torch.device,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.facts = facts
        self.device = device

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """The detector of a folder that `roadwork export` has written.

        Args:
            folder: with config.json, preprocessor_config.json and model.safetensors or model.onnx.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            DataError: it is no such folder, or a file of it is damaged.
            ConfigError: there is no such device.
            MissingExtraError: the folder holds ONNX, and onnxruntime is not installed.
        """
        folder = Path(folder)
        facts, preprocessing = ExportFacts.read(folder), Preprocessing.read(folder)
        chosen = choose_device(folder, device)
        return cls(load_network(folder, chosen), preprocessing, facts, chosen)

    def __call__(self, photo: Photo) -> Prediction:
        """The answer for one photo; see `read` for what a photo may be."""
        return self.predict_many([photo])[0]

    def predict_many(self, photos: Sequence[Photo]) -> list[Prediction]:
        """The answers for a batch of photos."""
        if not photos:
            return []
        return self.decide(self.probabilities(self.logits(torch.stack([self.read(photo) for photo in photos]))))

    def read(self, photo: Photo) -> Tensor:
        """(3, S, S) uint8 of a photo, as evaluation read it.

        Args:
            photo: a path, the bytes of an encoded JPEG, PNG or WebP, an opened PIL image, or (H, W, 3) uint8 RGB.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return read_pixels(_encoded(photo), self.preprocessing.size)
        except (OSError, UnreadableImageError) as error:
            name = photo if isinstance(photo, str | Path) else f"The photo ({type(photo).__name__})"
            raise DataError(f"{name} cannot be read: {error}. Allowed: {', '.join(FORMATS)}.") from error

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 2) folded logits on the CPU, for (B, 3, S, S) uint8."""
        return self.network(to_network_input(pixels.to(self.device), self.preprocessing.statistics)).float().cpu()

    def probabilities(self, logits: Tensor) -> np.ndarray:
        """(B,) calibrated probability of Roadwork, float64, for folded logits (B, 2)."""
        probabilities: np.ndarray = calibrated_probability(logits, self.facts.threshold).numpy()
        return probabilities

    def decide(self, probabilities: np.ndarray) -> list[Prediction]:
        """The answers that follow from calibrated probabilities (B,)."""
        facts = self.facts
        low, high = facts.abstain_low, facts.abstain_high
        return [
            Prediction(
                label=ROADWORK if probability >= facts.threshold else NONE,
                probability=probability,
                abstain=low is not None and high is not None and low <= probability <= high,
            )
            for probability in probabilities.tolist()
        ]


def calibrated_probability(folded_logits: Tensor, threshold: float) -> Tensor:
    """(B,) the calibrated probability of Roadwork behind the logits (B, 2) of a folded network.

    Folding moved the threshold to 0.5 by subtracting logit(t); this adds it again.
    """
    d = folded_logits[:, 1] - folded_logits[:, 0]
    return torch.sigmoid(d.double() + math.log(threshold / (1 - threshold)))


def _encoded(photo: Any) -> bytes:
    """The bytes of an encoded image; what is decoded already is encoded without loss, so that there is one reader."""
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise DataError(f"An array of {photo.dtype} {photo.shape} came; it must be uint8 (H, W, 3), RGB.")
        photo = Image.fromarray(photo)
    if not isinstance(photo, Image.Image):
        raise DataError(
            f"A photo came as {type(photo).__name__}; allowed: a path, bytes, a PIL image, or a uint8 array (H, W, 3)."
        )
    buffer = BytesIO()
    photo.save(buffer, "PNG", compress_level=0, exif=photo.getexif())
    return buffer.getvalue()
