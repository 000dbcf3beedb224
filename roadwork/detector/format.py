"""The exported format: the `roadwork` block of config.json, and preprocessing.

The whole image is resized to a square (docs/decisions/0004), bicubic and antialiased, scaled to [0, 1] and normalised.
ViTImageProcessor supports all of this. Unlike BitImageProcessor, it has a fast version in transformers 4.45, too.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from roadwork.calibration.label_shift import ScoreHistogram
from roadwork.core.errors import DataError
from roadwork.models.processor import PROCESSOR_FILE, ImageStatistics

CONFIG_FILE, CARD_FILE = "config.json", "README.md"
KEY = "roadwork"
FORMAT = 1
PROCESSOR_TYPE = "ViTImageProcessor"


@dataclass(frozen=True)
class ExportFacts:
    """The calibration that is folded into an exported network's head.

    Attributes:
        temperature: T, the divisor of the logits.
        threshold: t, the decision threshold on the calibrated probability; after folding, a score of 0.5.
        prior: the share of Roadwork that the probabilities and the threshold assume; None if not calibrated.
        abstain_low, abstain_high: the detector abstains between these calibrated probabilities, ends included; None:
            it never abstains.
        scores: the scores of val_calib by label, to estimate the share of Roadwork elsewhere; None if not calibrated,
            or in older exports.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    prior: float | None = None
    abstain_low: float | None = None
    abstain_high: float | None = None
    scores: ScoreHistogram | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not 0 < self.threshold < 1:
            raise DataError(
                f"temperature is {self.temperature} and threshold {self.threshold}; "
                "allowed: above 0, and between 0 and 1."
            )

    def as_config(self) -> dict[str, Any]:
        """The value of `roadwork` in config.json."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The facts of an exported folder.

        Raises:
            DataError: `roadwork export` did not write the folder.
        """
        facts = read_json(folder, CONFIG_FILE).get(KEY)
        if not isinstance(facts, dict):
            raise DataError(
                f"{folder / CONFIG_FILE} has no key {KEY!r}, so {folder} was not written by `roadwork export`. "
                "Make one with `roadwork export RUN --out DIR`."
            )
        if facts.get("format") != FORMAT:
            raise DataError(
                f"{folder / CONFIG_FILE} has format {facts.get('format')!r}; this roadwork reads format {FORMAT}. "
                "Export again."
            )
        try:
            known = {name: value for name, value in facts.items() if name in cls.__dataclass_fields__}
            scores = known.pop("scores", None)
            return cls(**known, scores=None if scores is None else ScoreHistogram.from_json(scores))
        except (TypeError, KeyError) as error:
            raise DataError(f"{folder / CONFIG_FILE}: the key {KEY!r} cannot be used: {error}. Export again.") from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of an exported folder.

    Raises:
        DataError: the folder or file does not exist, or is not a JSON object.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}. `roadwork export RUN --out DIR` makes one.")
    path = folder / name
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {name}, so it is not an exported detector. Make one with `roadwork export RUN --out DIR`."
        ) from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Export again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object. Export again.")
    return content


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the network input.

    Attributes:
        size: width and height in pixels.
        statistics: mean and standard deviation of the normalisation.
    """

    size: int
    statistics: ImageStatistics

    def as_config(self) -> dict[str, Any]:
        """The content of preprocessor_config.json."""
        return {
            "image_processor_type": PROCESSOR_TYPE,
            "do_resize": True,
            "size": {"height": self.size, "width": self.size},
            "resample": int(Image.Resampling.BICUBIC),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.statistics.mean),
            "image_std": list(self.statistics.std),
        }

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The preprocessing of an exported folder.

        Raises:
            DataError: the file is missing, or differs from `as_config`.
        """
        content = read_json(folder, PROCESSOR_FILE)
        try:
            size = int(content["size"]["height"])
            mean, std = (tuple(float(value) for value in content[key]) for key in ("image_mean", "image_std"))
            read = cls(size, ImageStatistics(mean, std))  # type: ignore[arg-type]  # its length is compared below
        except (KeyError, TypeError, ValueError):
            read = None
        stated = read.as_config() if read else {}
        differing = [key for key, value in stated.items() if content.get(key) != value]
        if read is None or differing or len(read.statistics.mean) != 3 or len(read.statistics.std) != 3:
            which = f": {', '.join(differing)}" if differing else ""
            raise DataError(
                f"{folder / PROCESSOR_FILE} was changed after the export{which}. Other preprocessing would change "
                "the predictions. Export again."
            )
        return read
