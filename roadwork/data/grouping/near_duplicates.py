"""Finds near-duplicate images by perceptual hash and a second criterion."""

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
import pandas as pd
from PIL import Image

from roadwork.core.files import atomic_path
from roadwork.core.progress import track
from roadwork.data.grouping.proximity import batches, ranges
from roadwork.data.images import ImageSource, UnreadableImageError, decode_image
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import haversine_km

logger = logging.getLogger(__name__)

T = TypeVar("T")
# Measured on 150 of the demo's scenes: JPEG at quality 30 to 95, half and a quarter of the size, brightness -20 to
# +10 % and contrast +20 % differ by up to 6 bits and correlate at 0.996 or more. 11 of the 11.5 million pairs of
# different places are within 6 bits, and none of those correlates at 0.9.
NEAR_DUPLICATE_BITS = 6
MIN_CORRELATION = 0.99
MAX_DISTANCE_KM = 0.1
MIN_CONTRAST = 5.0  # standard deviation in grey levels; flatter images, as at night, show no recognizable scene

THUMBNAIL_SIZE = 16
_N_PIXELS = THUMBNAIL_SIZE**2
_DECODED_SIZE = 64  # twice the size that the hash uses, so that large JPEGs are decoded at 1/8 scale

# The cache of hashes.
_VERSION = 1  # of the hash; caches of another version are ignored
_IMAGES_PER_WRITE = 20_000  # an interruption loses at most this many
_CHUNK_ROWS = 1024
_DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)

# The search for close hashes.
MAX_BITS = 7
_N_CHUNKS = 4
_CHUNK_BITS = 16
_FLIPS = (0, *(1 << bit for bit in range(_CHUNK_BITS)))
_BATCH = 1 << 22  # hashes compared at a time

# The comparison of images with close hashes.
_MAX_COMPARED = 64  # up to this many images of one hash, all pairs are compared
_MAX_LEADERS = 1000
_PAIRS_PER_BATCH = 1 << 21
_THUMBNAILS_PER_BATCH = 1 << 15


@dataclass(frozen=True)
class ImageHashes:
    """Perceptual hashes and thumbnails of N images.

    Attributes:
        keys: (N,) uint64 fingerprints of the files; 0 if unreadable.
        hashes: (N,) uint64 perceptual hashes (imagehash's phash); similar images differ in few bits.
        thumbnails: (N, 256) uint8, the images in 16 x 16 grey pixels.
        known: (N,) bool, False if the image is unreadable; its hash and thumbnail are then undefined.
    """

    keys: np.ndarray
    hashes: np.ndarray
    thumbnails: np.ndarray
    known: np.ndarray


def image_hashes(source: ImageSource, names: np.ndarray, cache: Path) -> ImageHashes:
    """Hashes of all images, read from `cache` or computed and added to it.

    A fingerprint of name, length, first and last 16 bytes identifies an image, so that only changed, replaced or
    renamed images are hashed again.

    Args:
        source: the images of N rows.
        names: (N,) ids of the rows.
        cache: an npz file; created if missing, and rebuilt if damaged.
    """
    n = len(names)
    numbers = _map_in_threads(lambda row: _image_key(source, row, names[row]), range(n), "Fingerprinting images")
    keys = np.fromiter(numbers, np.uint64, n)
    found = _read_cache(cache, keys)
    missing = np.flatnonzero(~found.known & (keys != 0))
    todo = _map_in_threads(lambda row: _hash(source, row), missing.tolist(), "Hashing images")
    for number, (row, hashed) in enumerate(zip(missing.tolist(), todo, strict=True), 1):
        if hashed is not None:
            found.hashes[row], found.thumbnails[row] = hashed
            found.known[row] = True
        if number % _IMAGES_PER_WRITE == 0 or number == len(missing):
            _write_cache(cache, found)
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


def _image_key(source: ImageSource, row: int, name: object) -> int:
    try:
        ends = source.read_ends(row)
    except UnreadableImageError:
        return 0
    digest = hashlib.blake2b(repr((str(name), *ends)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "big")


def _map_in_threads(function: Callable[[int], T], rows: Sequence[int], description: str) -> Iterator[T]:
    """`function(row)` of each row, in order; in chunks, which bounds memory and makes Ctrl-C quick."""
    with ThreadPoolExecutor() as pool:
        chunks = (rows[start : start + _CHUNK_ROWS] for start in range(0, len(rows), _CHUNK_ROWS))
        yield from track(chain.from_iterable(pool.map(function, chunk) for chunk in chunks), len(rows), description)


def _empty_hashes(keys: np.ndarray) -> ImageHashes:
    n = len(keys)
    return ImageHashes(keys, np.zeros(n, np.uint64), np.zeros((n, _N_PIXELS), np.uint8), np.zeros(n, dtype=bool))


def _read_cache(cache: Path, keys: np.ndarray) -> ImageHashes:
    """The cached hashes of the images with these keys."""
    found = _empty_hashes(keys)
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
        logger.warning("%s is damaged (%s). Hashing the images again.", cache, error)
        return _empty_hashes(keys)
    return found


def _write_cache(cache: Path, found: ImageHashes) -> None:
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
    except OSError as error:  # the cache is optional
        logger.warning("Cannot cache image hashes (%s). Set ROADWORK_CACHE to a writable folder.", error)


def close_hashes(hashes: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """(P, 2) index pairs, in batches, of all 64-bit hashes that differ in at most `max_bits` bits; each pair once.

    If two hashes differ in at most 7 bits, one of their four 16-bit chunks differs in at most one bit. So only hashes
    with such a chunk are compared (multi-index hashing; Norouzi, Punjani and Fleet, 2014).

    Args:
        hashes: (N,) uint64, unique: thousands of equal hashes would give millions of pairs.
        max_bits: 0 to 7.
    """
    if not 0 <= max_bits <= MAX_BITS:
        raise ValueError(f"max_bits is {max_bits}; the search finds all pairs up to {MAX_BITS} bits.")
    chunks = hashes[:, None].view(np.uint16).astype(np.int64)
    steps = ((number, flip) for number in range(_N_CHUNKS) for flip in _FLIPS)
    for number, flip in track(steps, _N_CHUNKS * len(_FLIPS), "Comparing hashes"):
        for pairs in _sharing_chunk(chunks[:, number], flip):
            difference = hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]
            is_close = np.bitwise_count(difference) <= max_bits
            earlier = difference[is_close, None].view(np.uint16)[:, :number]
            is_new = (np.bitwise_count(earlier) > 1).all(axis=1)
            yield pairs[is_close][is_new]


def _sharing_chunk(chunk: np.ndarray, flip: int) -> Iterator[np.ndarray]:
    """(P, 2) index pairs, in batches, whose chunks differ exactly in the bits of `flip`; each pair once."""
    order = np.argsort(chunk, kind="stable")
    values = chunk[order]
    starts = np.searchsorted(values, np.arange((1 << _CHUNK_BITS) + 1))
    wanted = values ^ flip
    first = np.arange(1, len(values) + 1) if flip == 0 else starts[wanted]
    counts = np.where(wanted >= values, starts[wanted + 1] - first, 0)
    for some in batches(counts, _BATCH):
        others = order[ranges(first[some], counts[some])]
        yield np.stack([np.repeat(order[some], counts[some]), others], axis=1)


def find_near_duplicates(table: SampleTable, hashes: ImageHashes) -> np.ndarray:
    """(P, 2) int64 row pairs of near-duplicates, the smaller row first, in ascending order.

    A pair's hashes differ in at most 6 bits, and a second criterion holds: both rows share a sequence, or their
    positions are closer than 100 m, or their grey thumbnails correlate at 0.99 or more (independent of brightness).
    Flat and unreadable images are never duplicates. If more than 64 images have the same hash, the pairs link all
    duplicates among them, but are not every pair.

    Args:
        table: N rows.
        hashes: the hashes of their images.
    """
    matcher = _SceneMatcher(table, hashes)
    rows = np.flatnonzero(hashes.known & (matcher.contrast >= MIN_CONTRAST))
    rows = rows[np.argsort(table.ids[rows])]  # the result must not depend on the order of the rows
    rows = rows[np.argsort(hashes.hashes[rows], kind="stable")]
    distinct, starts, counts = np.unique(hashes.hashes[rows], return_index=True, return_counts=True)
    found = [np.empty((0, 2), dtype=np.int64)]
    for bucket in np.flatnonzero(counts > _MAX_COMPARED):
        members = rows[starts[bucket] :][: counts[bucket]]
        pairs, leaders = _link_bucket(matcher, members)
        found.append(pairs)
        counts[bucket] = len(leaders)
        members[: len(leaders)] = leaders
    own = np.repeat(np.flatnonzero(counts > 1)[:, None], 2, axis=1)
    for close in chain([own], close_hashes(distinct, NEAR_DUPLICATE_BITS)):
        found += [pairs[matcher.matches(pairs)] for pairs in _row_pairs(close, rows, starts, counts)]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _link_bucket(matcher: _SceneMatcher, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images of one hash with the first image of their scene, and up to 64 such first images.

    The cost is O(images x scenes), not O(images^2).
    """
    pairs: list[np.ndarray] = []
    leaders: list[int] = []
    while len(members) and len(leaders) < _MAX_LEADERS:
        leaders.append(members[0])
        own = np.stack([np.full(len(members) - 1, members[0]), members[1:]], axis=1)
        agrees = matcher.matches(own)
        pairs.append(own[agrees])
        members = members[1:][~agrees]
    if len(members):
        logger.warning(
            "%s images share one perceptual hash with more than %s different scenes: "
            "they were not compared with each other.",
            f"{len(members):,}",
            f"{_MAX_LEADERS:,}",
        )
    return np.concatenate(pairs), np.array(leaders[:_MAX_COMPARED])


def _row_pairs(close: np.ndarray, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """(P, 2) row pairs, in batches: each row of one hash with each row of the other."""
    n_pairs = counts[close].prod(axis=1)
    for some in batches(n_pairs, _PAIRS_PER_BATCH):
        a, b = np.repeat(close[some], n_pairs[some], axis=0).T
        number = ranges(np.zeros_like(n_pairs[some]), n_pairs[some])
        first, second = starts[a] + number // counts[b], starts[b] + number % counts[b]
        once = (a != b) | (first < second)  # a hash paired with itself gives each pair twice, and each row with itself
        yield np.stack([rows[first[once]], rows[second[once]]], axis=1)


class _SceneMatcher:
    """Decides whether two rows with similar hashes show the same scene."""

    def __init__(self, table: SampleTable, hashes: ImageHashes) -> None:
        self.gps = table.gps
        self.sequences = pd.factorize(table.sequence_ids)[0]
        self.sequences[table.sequence_ids == ""] = -1
        self.thumbnails = hashes.thumbnails
        self.mean, self.contrast = np.empty(len(table), np.float32), np.empty(len(table), np.float32)
        for start in range(0, len(table), _THUMBNAILS_PER_BATCH):
            some = slice(start, start + _THUMBNAILS_PER_BATCH)
            self.mean[some] = hashes.thumbnails[some].mean(axis=1, dtype=np.float32)
            self.contrast[some] = hashes.thumbnails[some].std(axis=1, dtype=np.float32)

    def matches(self, pairs: np.ndarray) -> np.ndarray:
        """(P,) bool, whether two rows share a sequence or a position, or their pixels correlate."""
        a, b = pairs.T
        agrees: np.ndarray = (self.sequences[a] == self.sequences[b]) & (self.sequences[a] >= 0)
        agrees |= haversine_km(self.gps[a], self.gps[b]) < MAX_DISTANCE_KM
        rest = np.flatnonzero(~agrees)
        for start in range(0, len(rest), _THUMBNAILS_PER_BATCH):
            some = rest[start : start + _THUMBNAILS_PER_BATCH]
            agrees[some] = self._correlation(a[some], b[some]) >= MIN_CORRELATION
        return agrees

    def _correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = (self.thumbnails[rows] - self.mean[rows, None] for rows in (a, b))
        covariance = np.einsum("np,np->n", x, y) / x.shape[1]
        correlation: np.ndarray = covariance / (self.contrast[a] * self.contrast[b])
        return correlation
