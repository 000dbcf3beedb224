"""Reference photos of an export: synthetic scenes with the run's own outputs.

With them, `roadwork verify-export DIR` checks on any machine that the export has the outputs of the run, without the
run or its data. `replay/replay.json` contains

    {"format": 1, "photos": [{"file": "00.jpg", "sha256": "...", "probability": 0.93, "is_roadwork": true}, ...]}

with the calibrated probability of Roadwork and the decision of the run's own network, before merging and folding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadwork.core.errors import DataError
from roadwork.core.files import sha256_of, write_json
from roadwork.core.progress import track
from roadwork.data.formats import SUFFIXES, is_photo_name
from roadwork.demo.generate import draw_sequence
from roadwork.demo.places import FRAMES, plan_sequences
from roadwork.detector.detector import Detector
from roadwork.detector.format import read_json
from roadwork.metrics.decision import decide

REPLAY_FOLDER = "replay"
REPLAY_FILE = "replay.json"
FORMAT = 1
SCENES = 32
SIZE = (288, 216)  # keeps the folder small
SEED = 72
_BATCH = 32
LARGE = (4032, 3024)


@dataclass(frozen=True)
class ReplayPhoto:
    """A photo and the run's own output.

    Attributes:
        file: its path.
        sha256: of the file when it was written.
        probability: calibrated probability of Roadwork.
        is_roadwork: the decision at the calibrated threshold.
    """

    file: Path
    sha256: str
    probability: float
    is_roadwork: bool


def read_replay(folder: Path) -> list[ReplayPhoto]:
    """The photos of an exported folder, in order; their SHA-256 is not checked.

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
        raise DataError(f"{replay / REPLAY_FILE} has no photos in format {FORMAT}. Export again.")
    return photos


@cache
def draw_scenes() -> tuple[bytes, ...]:
    """The JPEGs of the scenes: the first frame of each sequence of a demo dataset, half of them with roadwork."""
    scenes = []
    for sequence in plan_sequences(SCENES * FRAMES, SEED):
        alone = replace(sequence, frames=1, gps_form="none")
        scenes += [picture.jpeg for picture in draw_sequence(alone, SIZE, SEED)]
    return tuple(scenes)


def write_replay(folder: Path, scenes: Sequence[bytes], probabilities: np.ndarray, threshold: float) -> None:
    """Writes `replay/` into a new export.

    Args:
        folder: the export.
        scenes: N JPEGs.
        probabilities: (N,) calibrated probabilities of the run's own network.
        threshold: decision threshold of the run.
    """
    replay = folder / REPLAY_FOLDER
    replay.mkdir()
    rows = []
    decisions = decide(probabilities, threshold).astype(bool)
    outputs = zip(scenes, probabilities.tolist(), decisions.tolist(), strict=True)
    for number, (jpeg, probability, is_roadwork) in enumerate(outputs):
        name = f"{number:02d}.jpg"
        (replay / name).write_bytes(jpeg)
        rows.append(
            {
                "file": name,
                "sha256": hashlib.sha256(jpeg).hexdigest(),
                "probability": probability,
                "is_roadwork": is_roadwork,
            }
        )
    write_json(replay / REPLAY_FILE, {"format": FORMAT, "photos": rows})


def checked_replay(folder: Path) -> list[ReplayPhoto]:
    """The folder's own photos; checks that they have not changed since the export.

    Raises:
        DataError: there are no photos, or one is missing or has changed.
    """
    photos = read_replay(folder)
    for photo in photos:
        if not photo.file.is_file():
            raise DataError(f"{photo.file} is missing, but listed in replay.json. Export again.")
        if (found := sha256_of(photo.file)) != photo.sha256:
            raise DataError(
                f"{photo.file} has changed since the export: its SHA-256 is {found[:12]}…, in replay.json it is "
                f"{photo.sha256[:12]}…. Restore it, or export again."
            )
    return photos


def find_files(inputs: Sequence[Path]) -> list[Path]:
    """The photos among files and folders, each once; folders are searched recursively, in order of names.

    Raises:
        DataError: an input does not exist, or contains no photo.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        if not given.exists():
            raise DataError(f"{given} does not exist. Name photos or folders.")
        inside = sorted(path for path in given.rglob("*") if is_photo_name(path.name))
        if given.is_dir() and not inside:
            raise DataError(f"{given} has no photos: none of its files ends in {', '.join(SUFFIXES)}.")
        found.update(dict.fromkeys(inside if given.is_dir() else [given]))
    return list(found)


def folded_logits(detector: Detector, photos: Sequence[Path | bytes]) -> Tensor:
    """(N, 2) folded logits of a detector for N photos."""
    return torch.cat([detector.logits(pixels) for pixels in _batches(detector, photos)])


def _batches(detector: Detector, photos: Sequence[Path | bytes]) -> Iterator[Tensor]:
    starts = range(0, len(photos), _BATCH)
    for start in track(starts, len(starts), "Replaying"):
        yield torch.stack([detector.read(photo) for photo in photos[start : start + _BATCH]])


def write_large_photo(photo: Path, path: Path) -> None:
    """Writes a photo enlarged to a JPEG of 12 megapixels, with noise: it takes as long to decode as a phone's photo."""
    width, height = LARGE
    noise = np.random.default_rng(0).integers(-12, 13, (height, width, 1), dtype=np.int16)
    with Image.open(photo) as image:
        pixels = np.asarray(image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC))
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)
