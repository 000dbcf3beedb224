"""The exported format: the `roadwork` block of config.json, and preprocessing.

The whole picture is squashed to a square (docs/decisions/0004), bicubic and antialiased, scaled to [0, 1] and
normalised. ViTImageProcessor can say all of it, and unlike BitImageProcessor has a fast form in transformers 4.45 too.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

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
        temperature: T, by which the logits were divided.
        threshold: t, the calibrated probability at which Roadwork is decided; folded, so that the decision is at 0.5.
        prior: the share of Roadwork that the probabilities and the threshold are meant for; None where uncalibrated.
        abstain_low, abstain_high: calibrated probabilities between which, ends included, no answer is given; None:
            every photo is answered.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    prior: float | None = None
    abstain_low: float | None = None
    abstain_high: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf or not 0 < self.threshold < 1:
            raise DataError(
                f"temperature is {self.temperature} and threshold {self.threshold}; "
                "allowed: above 0, and between 0 and 1."
            )

    def as_config(self) -> dict[str, Any]:
        """What stands in config.json under `roadwork`."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The facts of an exported folder.

        Raises:
            DataError: it is not a folder that `roadwork export` has written.
        """
        facts = read_json(folder, CONFIG_FILE).get(KEY)
        if not isinstance(facts, dict):
            raise DataError(
                f"{folder / CONFIG_FILE} has no part {KEY!r}, so {folder} was not written by `roadwork export`. "
                "Make one with `roadwork export RUN --out DIR`."
            )
        if facts.get("format") != FORMAT:
            raise DataError(
                f"{folder / CONFIG_FILE} is of format {facts.get('format')!r}; this roadwork reads {FORMAT}. "
                "Export again."
            )
        try:
            return cls(**{name: value for name, value in facts.items() if name in cls.__dataclass_fields__})
        except TypeError as error:
            raise DataError(
                f"{folder / CONFIG_FILE}: the part {KEY!r} cannot be used: {error}. Export again."
            ) from None


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """An object in a file of an exported folder.

    Raises:
        DataError: there is no such folder or file, or it holds no JSON object.
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
        raise DataError(f"{path} holds no JSON object. Export again.")
    return content


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes what the network takes.

    Attributes:
        size: pixels of both sides.
        statistics: of normalisation.
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
        """That of an exported folder.

        Raises:
            DataError: the file is missing, or says something else than `as_config` would.
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
                f"{folder / PROCESSOR_FILE} is not as `roadwork export` writes it{which}. A detector that is fed other "
                "pictures than it was judged on is another detector; export again."
            )
        return read
