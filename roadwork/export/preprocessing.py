"""`preprocessor_config.json`: what evaluation did to a photo, in the words of transformers' ViTImageProcessor.

The whole picture is squashed to a square (docs/decisions/0004), bicubic and antialiased, scaled to [0, 1] and
normalised. ViTImageProcessor can say all of it, and unlike BitImageProcessor has a fast form in transformers 4.45 too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from roadwork.errors import DataError
from roadwork.export.facts import read_json
from roadwork.models.processor import PROCESSOR_FILE, ImageStatistics

PROCESSOR_TYPE = "ViTImageProcessor"


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
