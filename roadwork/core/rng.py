"""Random draws that depend on what is augmented, and on nothing that happened before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def repeatable_draws(device: torch.device, *key: int) -> Iterator[None]:
    """Draws of torch's global generators that follow from `key` alone; afterwards they go on as if none had happened.

    Args:
        device: where the images are; its generator and the CPU's are seeded.
        key: numbers of 0 or more, such as seed, epoch and position; always as many, since trailing zeros count as none.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(_seed_of(key))
        yield


def seed_all(*key: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, of all devices, by `key`, which is as above."""
    seed = _seed_of(key)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- libraries that draw from the global generator are why it is seeded
    torch.manual_seed(seed)


def _seed_of(key: Sequence[int]) -> int:
    # Unlike a sum or a hash of our own, nearby keys give unrelated seeds.
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
