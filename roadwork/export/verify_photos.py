"""The photos that an exported folder is verified on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from roadwork.errors import DataError
from roadwork.export.replay import ReplayPhoto, read_replay
from roadwork.inference.detector import Detector
from roadwork.inference.finding import SUFFIXES
from roadwork.progress import track
from roadwork.runs import sha256_of

_BATCH = 32
LARGE = (4032, 3024)


def checked_replay(folder: Path) -> list[ReplayPhoto]:
    """The folder's own photos, each the file that it was when the run answered.

    Raises:
        DataError: there are none, or one is missing or another file now.
    """
    photos = read_replay(folder)
    for photo in photos:
        if not photo.file.is_file():
            raise DataError(f"{photo.file} is missing, which replay.json names. Export again.")
        if (found := sha256_of(photo.file)) != photo.sha256:
            raise DataError(
                f"{photo.file} is not the photo that the run answered: its SHA-256 is {found[:12]}…, replay.json says "
                f"{photo.sha256[:12]}…. Restore it, or export again."
            )
    return photos


def find_files(inputs: Sequence[Path]) -> list[Path]:
    """The photos that files and folders name, each once; a folder's by name, those of its folders too.

    Raises:
        DataError: an input is not there, or holds no photo.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        if not given.exists():
            raise DataError(f"{given} is not there. Name photos, or folders of them.")
        inside = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES)
        if given.is_dir() and not inside:
            raise DataError(f"{given} holds no photo: none of its files ends in {', '.join(SUFFIXES)}.")
        found.update(dict.fromkeys(inside if given.is_dir() else [given]))
    return list(found)


def folded_logits(detector: Detector, photos: Sequence[Path | bytes]) -> Tensor:
    """(N, 2) what a detector's network says of N photos, read as `Detector` reads them."""
    return torch.cat([detector.logits(pixels) for pixels in _batches(detector, photos)])


def _batches(detector: Detector, photos: Sequence[Path | bytes]) -> Iterator[Tensor]:
    starts = range(0, len(photos), _BATCH)
    for start in track(starts, len(starts), "Replaying"):
        yield torch.stack([detector.read(photo) for photo in photos[start : start + _BATCH]])


def write_large_photo(path: Path) -> None:
    """Writes a JPEG of 12 megapixels, with detail everywhere: a phone's, which take the longest."""
    width, height = LARGE
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(LARGE, Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)
