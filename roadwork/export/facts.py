"""What an exported folder says of its detector beside what transformers needs: the `roadwork` part of config.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from roadwork.errors import DataError

CONFIG_FILE = "config.json"
KEY = "roadwork"
FORMAT = 1


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
