"""The search finds all close hashes, each pair once, as brute force does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadwork.data.grouping import near_duplicates as hash_search
from roadwork.data.grouping.near_duplicates import close_hashes


def pairs_found(hashes, max_bits):
    pairs = np.sort(np.concatenate([np.empty((0, 2), dtype=int), *close_hashes(hashes, max_bits)]), axis=1)
    return sorted(map(tuple, pairs.tolist()))


def brute_force(hashes, max_bits):
    values = [int(value) for value in hashes]
    return [
        (i, j)
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= max_bits
    ]


@st.composite
def clustered_hashes(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centers = rng.integers(0, 2**64, draw(st.integers(1, 6)), dtype=np.uint64)
    hashes = centers[rng.integers(0, len(centers), draw(st.integers(1, 80)))]
    for _ in range(draw(st.integers(0, 6))):
        hashes ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    return rng.permutation(np.unique(hashes))


@settings(max_examples=40, deadline=None)
@given(hashes=clustered_hashes(), max_bits=st.integers(0, 7))
def test_equal_to_brute_force(hashes, max_bits):
    assert pairs_found(hashes, max_bits) == brute_force(hashes, max_bits)


def test_batches_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = np.unique(np.uint64(12345) ^ (np.uint64(1) << rng.integers(0, 64, 40, dtype=np.uint64)))
    expected = brute_force(hashes, 6)
    assert len(expected) == len(hashes) * (len(hashes) - 1) // 2
    monkeypatch.setattr(hash_search, "_BATCH", 7)
    assert pairs_found(hashes, 6) == expected


@pytest.mark.parametrize("max_bits", [-1, 8])
def test_too_many_bits_for_an_exact_search_are_rejected(max_bits):
    with pytest.raises(ValueError, match="7 bits"):
        next(close_hashes(np.zeros(1, np.uint64), max_bits))


def test_no_hashes_and_one():
    for n in (0, 1):
        assert pairs_found(np.zeros(n, np.uint64), 6) == []
