"""Hashes that differ in few bits, found without comparing every pair."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roadwork.data.utils.ragged import batches, ranges
from roadwork.progress import track

MAX_BITS = 7
_N_CHUNKS = 4
_CHUNK_BITS = 16
_BATCH = 1 << 22  # hashes compared at once
_FLIPS = (0, *(1 << bit for bit in range(_CHUNK_BITS)))


def close_hashes(hashes: np.ndarray, max_bits: int) -> Iterator[np.ndarray]:
    """(P, 2) index pairs, in batches, of all 64-bit hashes that differ in at most `max_bits` bits; each pair once.

    Where two hashes differ in at most 7 bits, one of their four chunks of 16 bits differs in at most one, so only
    hashes that share a chunk but for one bit are compared (multi-index hashing; Norouzi, Punjani and Fleet, 2014).

    Args:
        hashes: (N,) uint64, each once: thousands of equal ones would be millions of pairs.
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
    """(P, 2) index pairs, in batches, whose chunks differ in the bits of `flip` alone, each pair once."""
    order = np.argsort(chunk, kind="stable")
    values = chunk[order]
    starts = np.searchsorted(values, np.arange((1 << _CHUNK_BITS) + 1))
    wanted = values ^ flip
    first = np.arange(1, len(values) + 1) if flip == 0 else starts[wanted]
    counts = np.where(wanted >= values, starts[wanted + 1] - first, 0)
    for some in batches(counts, _BATCH):
        others = order[ranges(first[some], counts[some])]
        yield np.stack([np.repeat(order[some], counts[some]), others], axis=1)
