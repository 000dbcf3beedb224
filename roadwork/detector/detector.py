"""Loads an exported detector and predicts photos with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.formats import FORMAT_NAMES, complete_images_only
from roadwork.data.images import (
    UnreadableImageError,
    orientation_of,
    read_pixels,
    to_network_input,
    to_rgb,
    upright_size,
)
from roadwork.data.utils.exif import read_camera_metadata
from roadwork.detector.familiarity import Familiarity, Reference, judge, photo_facts
from roadwork.detector.format import ExportFacts, Preprocessing
from roadwork.detector.networks import choose_network_device, load_network
from roadwork.metrics.decision import decide, unfold

ROADWORK, NONE = "Roadwork", "None"
CHANNEL_ORDERS = ("rgb", "bgr")


Photo = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The prediction for one photo.

    Attributes:
        label: `Roadwork` or `None` (text), decided at the calibrated threshold.
        probability: calibrated probability of Roadwork.
        abstain: whether the probability is in the abstain band, too near the threshold to rely on.
    """

    label: str
    probability: float
    abstain: bool


class Detector:
    """An exported detector: call it with a photo, or `predict_many` with a batch.

    Example:
        >>> from roadwork import Detector
        >>> detector = Detector.load("model")  # written by: roadwork export RUN --out model
        >>> detector("photo.jpg")  # doctest: +SKIP
        Prediction(label='Roadwork', probability=0.93, abstain=False)
        >>> [prediction.label for prediction in detector.predict_many(["a.jpg", "b.png"])]  # doctest: +SKIP
        ['Roadwork', 'None']

    Attributes:
        network: maps (B, 3, S, S) float32 to folded logits (B, 2), both on `device`.
        preprocessing: image size and normalisation.
        facts: the calibration folded into the head.
        device: the device of the network.
        reference: features of training photos, to judge how familiar a batch is; None if the folder has none.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        preprocessing: Preprocessing,
        facts: ExportFacts,
        device: torch.device,
        reference: Reference | None = None,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.facts = facts
        self.device = device
        self.reference = reference

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """The detector in a folder written by `roadwork export`.

        Args:
            folder: with config.json, preprocessor_config.json and model.safetensors or model.onnx.
            device: `auto` (a GPU where there is one), `cpu`, `cuda`, ...

        Raises:
            DataError: the folder is not an export, or one of its files is damaged.
            ConfigError: the device does not exist.
            MissingExtraError: the folder holds ONNX, and onnxruntime is not installed.
        """
        folder = Path(folder)
        facts, preprocessing = ExportFacts.read(folder), Preprocessing.read(folder)
        chosen = choose_network_device(folder, device)
        return cls(load_network(folder, chosen), preprocessing, facts, chosen, Reference.read(folder))

    def __call__(self, photo: Photo, *, channel_order: str = "rgb") -> Prediction:
        """The prediction for one photo, in any form that `read` takes."""
        return self.predict_many([photo], channel_order=channel_order)[0]

    def predict_many(self, photos: Sequence[Photo], *, channel_order: str = "rgb") -> list[Prediction]:
        """The predictions for a batch of photos, in their order, each in any form that `read` takes."""
        if not photos:
            return []
        pixels = torch.stack([self.read(photo, channel_order=channel_order) for photo in photos])
        return self.decide(self.probabilities(self.logits(pixels)))

    def read(self, photo: Photo, *, channel_order: str = "rgb") -> Tensor:
        """(3, S, S) uint8 pixels of a photo, read as in evaluation.

        Args:
            photo: a path, the bytes of an encoded photo, an opened PIL image of any mode, or (H, W, 3) uint8.
            channel_order: of arrays: `rgb`, or `bgr` as OpenCV reads them. Other forms know their own.

        Raises:
            DataError: the photo cannot be read.
            ConfigError: the channel order is not allowed.
        """
        try:
            return read_pixels(_encoded(photo, channel_order), self.preprocessing.size)
        except (OSError, UnreadableImageError) as error:
            name = photo if isinstance(photo, str | Path) else f"The photo ({type(photo).__name__})"
            raise DataError(f"{name} cannot be read: {error}. Allowed: {FORMAT_NAMES}.") from error

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """(B, 2) folded logits on the CPU, for (B, 3, S, S) uint8."""
        return self.network(to_network_input(pixels.to(self.device), self.preprocessing.statistics)).float().cpu()

    @torch.inference_mode()
    def logits_and_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits as `logits`, and penultimate features (B, D) on the CPU; None if the network has no such output."""
        images = to_network_input(pixels.to(self.device), self.preprocessing.statistics)
        with_features = getattr(self.network, "with_features", None)
        logits, features = with_features(images) if with_features else (self.network(images), None)
        return logits.float().cpu(), None if features is None else features.float().cpu()

    def familiarity(self, photos: Sequence[Photo], *, channel_order: str = "rgb") -> Familiarity:
        """Whether photos look like the training photos; see docs/familiarity.md.

        Raises:
            DataError: a photo cannot be read.
        """
        features, facts = [], []
        for photo in photos:
            data = _encoded(photo, channel_order)
            pixels = self.read(data)
            camera = read_camera_metadata(data)
            facts.append(photo_facts(pixels, upright_size(data), camera.captured_at, camera[:2]))
            features.append(self.logits_and_features(pixels[None])[1])
        known = [value for value in features if value is not None]
        values = torch.cat(known).numpy() if known else None
        return judge(self.reference, values, np.array(facts))

    def probabilities(self, logits: Tensor) -> np.ndarray:
        """(B,) float64 calibrated probabilities of Roadwork, from folded logits (B, 2)."""
        probabilities: np.ndarray = unfold(logits, self.facts.threshold).numpy()
        return probabilities

    def decide(self, probabilities: np.ndarray) -> list[Prediction]:
        """The predictions that follow from calibrated probabilities (B,)."""
        return decide_photos(probabilities, self.facts)


def decide_photos(probabilities: np.ndarray, facts: ExportFacts) -> list[Prediction]:
    """The predictions that follow from calibrated probabilities (B,), threshold and band."""
    low, high = facts.abstain_low, facts.abstain_high
    return [
        Prediction(
            label=ROADWORK if is_roadwork else NONE,
            probability=probability,
            abstain=low is not None and high is not None and low <= probability <= high,
        )
        for probability, is_roadwork in zip(
            probabilities.tolist(), decide(probabilities, facts.threshold).tolist(), strict=True
        )
    ]


def _encoded(photo: Any, channel_order: str) -> bytes:
    """The bytes of an encoded image. Decoded images are encoded losslessly, so that all photos use the same reader."""
    if channel_order not in CHANNEL_ORDERS:
        raise ConfigError(f"channel_order is {channel_order!r}; allowed: {', '.join(CHANNEL_ORDERS)}.")
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    exif = Image.Exif()
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise DataError(
                f"The photo is an array of {photo.dtype} {photo.shape}; it must be uint8 (H, W, 3), with the channels "
                f"in the order of channel_order ({', '.join(CHANNEL_ORDERS)}). Convert it."
            )
        rgb = Image.fromarray(np.ascontiguousarray(photo[..., ::-1] if channel_order == "bgr" else photo))
    elif isinstance(photo, Image.Image):
        with complete_images_only:
            rgb = to_rgb(photo)
        exif[ExifTags.Base.Orientation] = orientation_of(photo)
    else:
        raise DataError(
            f"The photo is a {type(photo).__name__}; allowed: a path, bytes, a PIL image, or a uint8 array (H, W, 3)."
        )
    buffer = BytesIO()
    rgb.save(buffer, "PNG", compress_level=0, exif=exif)
    return buffer.getvalue()
