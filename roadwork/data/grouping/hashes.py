"""Perceptual hashes of a dataset's images, computed once and kept in a file."""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import imagehash
import numpy as np
from PIL import Image

from roadwork.data.images import ImageSource, UnreadableImageError, decode_image
from roadwork.progress import track
from roadwork.runs import atomic_path

T = TypeVar("T")
logger = logging.getLogger(__name__)

THUMBNAIL_SIZE = 16
_N_PIXELS = THUMBNAIL_SIZE**2
_DECODED_SIZE = 64  # twice what the hash looks at, so that a large JPEG is decoded at an eighth
_VERSION = 1  # of how hashes are made; files of another are not used
_IMAGES_PER_WRITE = 20_000  # what an interruption loses at most
_CHUNK_ROWS = 1024
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True)
class ImageHashes:
    """What N images look like.

    Attributes:
        keys: (N,) uint64, by which an image is known again; 0 where it cannot be read.
        hashes: (N,) uint64 perceptual hashes (imagehash's phash); images that look alike differ in few bits.
        thumbnails: (N, 256) uint8, the pictures in 16 x 16 grey levels.
        known: (N,) bool, False where the image could not be read; its hash and thumbnail mean nothing then.
    """

    keys: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    known: np.ndarray


def image_hashes(source: ImageSource, names: np.ndarray, cache: Path) -> ImageHashes:
    """Hashes of all images: those that `cache` holds, and the others computed and added to it.

    An image is known again by its name, length, first and last 16 bytes, so that one that was changed, replaced or
    renamed is hashed anew, and no other.

    Args:
        source: the images of N rows.
        names: (N,) ids of the rows.
        cache: an npz file, made where there is none, and made anew where it is damaged; nothing needs it.
    """
    n = len(names)
    keys = np.fromiter(
        _in_threads(lambda row: _key(source, row, names[row]), range(n), "Looking at images"), np.uint64, n
    )
    found = _read(cache, keys)
    missing = np.flatnonzero(~found.known & (keys != 0))
    todo = _in_threads(lambda row: _hash(source, row), missing.tolist(), "Hashing images")
    for number, (row, hashed) in enumerate(zip(missing.tolist(), todo, strict=True), 1):
        if hashed is not None:
            found.hashes[row], found.thumbnails[row] = hashed
            found.known[row] = True
        if number % _IMAGES_PER_WRITE == 0 or number == len(missing):
            _write(cache, found)
    return found


def hash_image(data: bytes) -> tuple[int, np.ndarray]:
    """The 64-bit perceptual hash of an encoded image, and its (256,) uint8 grey thumbnail.

    Raises:
        UnreadableImageError: it cannot be decoded.
    """
    grey = Image.fromarray(decode_image(data, _DECODED_SIZE)).convert("L")
    bits = np.packbits(imagehash.phash(grey).hash)
    thumbnail = grey.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
    return int.from_bytes(bits.tobytes(), "big"), np.asarray(thumbnail).ravel()


def _hash(source: ImageSource, row: int) -> tuple[int, np.ndarray] | None:
    try:
        return hash_image(source.read(row))
    except UnreadableImageError:
        return None


def _key(source: ImageSource, row: int, name: object) -> int:
    try:
        ends = source.read_ends(row)
    except UnreadableImageError:
        return 0
    digest = hashlib.blake2b(repr((str(name), *ends)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _in_threads(function: Callable[[int], T], rows: Sequence[int], description: str) -> Iterator[T]:
    """`function` of each row, in order; a chunk at a time, so that results do not pile up and Ctrl-C is quick."""
    with ThreadPoolExecutor() as pool:
        chunks = (rows[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS))
        yield from track(chain.from_iterable(pool.map(function, chunk) for chunk in chunks), len(rows), description)


def _nothing_of(keys: np.ndarray) -> ImageHashes:
    n = len(keys)
    return ImageHashes(keys, np.zeros(n, np.uint64), np.zeros((n, _N_PIXELS), np.uint8), np.zeros(n, dtype=bool))


def _read(cache: Path, keys: np.ndarray) -> ImageHashes:
    """What the file knows of the images with these keys."""
    found = _nothing_of(keys)
    if not cache.is_file():
        return found
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as content:
            if content["version"] != _VERSION:
                return found
            cached_keys, hashes, thumbnails = (content[name] for name in ("keys", "hashes", "thumbnails"))
        if len(cached_keys):
            place = np.searchsorted(cached_keys, keys).clip(max=len(cached_keys) - 1)
            known = cached_keys[place] == keys
            found.hashes[known], found.thumbnails[known] = hashes[place[known]], thumbnails[place[known]]
            found.known[:] = known
    except _DAMAGED as error:
        logger.warning("%s is damaged (%s): the images are hashed again.", cache, error)
        return _nothing_of(keys)
    return found


def _write(cache: Path, found: ImageHashes) -> None:
    rows = np.flatnonzero(found.known)
    rows = rows[np.argsort(found.keys[rows])]
    try:
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                version=np.int64(_VERSION),
                keys=found.keys[rows],
                hashes=found.hashes[rows],
                thumbnails=found.thumbnails[rows],
            )
    except OSError as error:  # nothing in the cache is needed
        logger.warning("Image hashes are not kept (%s). Name a folder for them with ROADWORK_CACHE.", error)
