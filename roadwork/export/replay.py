"""The folder `replay/`: small synthetic street scenes, and what the run itself said of them.

With it `roadwork verify-export DIR` can show on any machine that the exported folder answers as the run did: nothing of
the run, its data or its photos is needed. `replay/replay.json` holds

    {"format": 1, "photos": [{"file": "00.jpg", "sha256": "...", "probability": 0.93, "is_roadwork": true}, ...]}

with the calibrated probability of Roadwork and the decision of the run's own network, neither merged nor folded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from roadwork.data.demo.generate import draw_sequence
from roadwork.data.demo.places import FRAMES, plan_sequences
from roadwork.errors import DataError
from roadwork.export.facts import read_json
from roadwork.runs import write_json

REPLAY_FOLDER = "replay"
REPLAY_FILE = "replay.json"
FORMAT = 1
SCENES = 32
SIZE = (288, 216)  # small enough for a folder that is passed around
SEED = 72


@dataclass(frozen=True)
class ReplayPhoto:
    """A photo and the run's own answer.

    Attributes:
        file: where it is.
        sha256: of the file, as it was written.
        probability: calibrated, of Roadwork.
        is_roadwork: the decision, at the calibrated threshold.
    """

    file: Path
    sha256: str
    probability: float
    is_roadwork: bool


def read_replay(folder: Path) -> list[ReplayPhoto]:
    """The photos of an exported folder, in order. That they still have their SHA-256 is not looked at.

    Raises:
        DataError: there is no replay.json, or it is damaged.
    """
    replay = folder / REPLAY_FOLDER
    content = read_json(replay, REPLAY_FILE)
    try:
        photos = [
            ReplayPhoto(replay / Path(row["file"]).name, row["sha256"], float(row["probability"]), row["is_roadwork"])
            for row in content["photos"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{replay / REPLAY_FILE} is damaged ({type(error).__name__}: {error}). Export again.") from None
    if not photos or content.get("format") != FORMAT:
        raise DataError(f"{replay / REPLAY_FILE} holds no photos in format {FORMAT}. Export again.")
    return photos


@cache
def draw_scenes() -> tuple[bytes, ...]:
    """The JPEG of each scene: the first picture of a demo dataset's sequences, half of them with roadwork."""
    scenes = []
    for sequence in plan_sequences(SCENES * FRAMES, SEED):
        alone = replace(sequence, frames=1, gps_form="none")
        scenes += [picture.jpeg for picture in draw_sequence(alone, SIZE, SEED)]
    return tuple(scenes)


def write_replay(folder: Path, scenes: Sequence[bytes], probabilities: np.ndarray, threshold: float) -> None:
    """Writes `replay/` into an export that is being made.

    Args:
        folder: the export.
        scenes: N JPEGs.
        probabilities: (N,) calibrated, of the run's own network.
        threshold: at which the run decides.
    """
    replay = folder / REPLAY_FOLDER
    replay.mkdir()
    rows = []
    for number, (jpeg, probability) in enumerate(zip(scenes, probabilities.tolist(), strict=True)):
        name = f"{number:02d}.jpg"
        (replay / name).write_bytes(jpeg)
        rows.append(
            {
                "file": name,
                "sha256": hashlib.sha256(jpeg).hexdigest(),
                "probability": probability,
                "is_roadwork": bool(probability >= threshold),
            }
        )
    write_json(replay / REPLAY_FILE, {"format": FORMAT, "photos": rows})
