"""Images that show the same scene: alike by their perceptual hash, and by a second sign."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pandas as pd

from roadwork.data.grouping.hash_search import close_hashes
from roadwork.data.grouping.hashes import ImageHashes
from roadwork.data.table import SampleTable
from roadwork.data.utils.geo import haversine_km
from roadwork.data.utils.ragged import batches, ranges

logger = logging.getLogger(__name__)

# Measured on 150 of the demo's scenes: JPEG at quality 30 to 95, half and a quarter of the size, brightness -20 to
# +10 % and contrast +20 % differ by up to 6 bits and correlate at 0.996 or more. Of the 11.5 million pairs of different
# places 11 lie within 6 bits, and none of those correlates at 0.9.
MAX_BITS = 6
MIN_CORRELATION = 0.99
MAX_DISTANCE_KM = 0.1
MIN_CONTRAST = 5.0  # standard deviation in grey levels; what is flatter, as at night, shows no scene to know again
_MAX_COMPARED = 64  # images of one hash whose pairs are all looked at
_MAX_LEADERS = 1000
_PAIRS_PER_BATCH = 1 << 21
_THUMBNAILS_PER_BATCH = 1 << 15


def find_near_duplicates(table: SampleTable, hashes: ImageHashes) -> np.ndarray:
    """(P, 2) int64 row pairs of near-duplicates, the smaller row first, in ascending order.

    A pair's hashes differ in at most 6 bits, and one thing more agrees: both are of one sequence, or their positions
    are closer than 100 m, or their grey thumbnails correlate at 0.99 or more, however bright. Flat and unreadable
    images are never duplicates. Where more than 64 images have the same hash, the pairs given are not all of them, but
    chain them.

    Args:
        table: N rows.
        hashes: of their images.
    """
    looks = _Looks(table, hashes)
    rows = np.flatnonzero(hashes.known & (looks.contrast >= MIN_CONTRAST))
    rows = rows[np.argsort(table.ids[rows])]  # who leads a crowd must not depend on the order of the rows
    rows = rows[np.argsort(hashes.hashes[rows], kind="stable")]
    distinct, starts, counts = np.unique(hashes.hashes[rows], return_index=True, return_counts=True)
    found = [np.empty((0, 2), dtype=np.int64)]
    for crowd in np.flatnonzero(counts > _MAX_COMPARED):
        members = rows[starts[crowd] :][: counts[crowd]]
        pairs, leaders = _chain(looks, members)
        found.append(pairs)
        counts[crowd] = len(leaders)
        members[: len(leaders)] = leaders
    own = np.repeat(np.flatnonzero(counts > 1)[:, None], 2, axis=1)
    for close in chain([own], close_hashes(distinct, MAX_BITS)):
        found += [pairs[looks.agree(pairs)] for pairs in _row_pairs(close, rows, starts, counts)]
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _chain(looks: _Looks, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images that share a hash with the first image that each agrees with, and up to 64 such first images.

    The work grows with the images times the scenes among them, not with their pairs.
    """
    pairs: list[np.ndarray] = []
    leaders: list[int] = []
    while len(members) and len(leaders) < _MAX_LEADERS:
        leaders.append(members[0])
        own = np.stack([np.full(len(members) - 1, members[0]), members[1:]], axis=1)
        agrees = looks.agree(own)
        pairs.append(own[agrees])
        members = members[1:][~agrees]
    if len(members):
        logger.warning(
            "%s images share one perceptual hash and differ from the first %s scenes that have it: "
            "they were not compared with each other.",
            f"{len(members):,}",
            f"{_MAX_LEADERS:,}",
        )
    return np.concatenate(pairs), np.array(leaders[:_MAX_COMPARED])


def _row_pairs(close: np.ndarray, rows: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """(P, 2) row pairs, in batches, of pairs of hashes: each row of one with each row of the other."""
    n_pairs = counts[close].prod(axis=1)
    for some in batches(n_pairs, _PAIRS_PER_BATCH):
        a, b = np.repeat(close[some], n_pairs[some], axis=0).T
        number = ranges(np.zeros_like(n_pairs[some]), n_pairs[some])
        first, second = starts[a] + number // counts[b], starts[b] + number % counts[b]
        once = (a != b) | (first < second)  # a hash with itself gives each pair twice, and each row with itself
        yield np.stack([rows[first[once]], rows[second[once]]], axis=1)


class _Looks:
    """What tells whether two rows with much the same hash show the same scene."""

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

    def agree(self, pairs: np.ndarray) -> np.ndarray:
        """(P,) bool, whether the sequence, the place or the pixels of two rows agree."""
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
