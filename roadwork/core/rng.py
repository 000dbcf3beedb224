"""Random draws that depend only on a key, not on earlier draws."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def repeatable_draws(device: torch.device, *key: int) -> Iterator[None]:
    """Seeds torch's global generators by `key` inside the block, and restores their state afterwards.

    Args:
        device: the images' device; its generator and the CPU's are seeded.
        key: numbers of 0 or more, such as seed, epoch and position. Always pass the same number of them, because
            trailing zeros do not change the seed.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed_of(key))
        yield


def seed_all(*key: int) -> None:
    """Seeds the global generators of Python, NumPy and torch (all devices) by `key`; see `repeatable_draws`."""
    seed = _seed_of(key)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- libraries draw from the global generator
    torch.manual_seed(seed)


def _seed_of(key: Sequence[int]) -> int:
    # SeedSequence gives unrelated seeds for similar keys.
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
