"""Random draws that depend on what is augmented, and on nothing that happened before."""

from __future__ import annotations

from collections.abc import Iterator
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
        # Unlike a sum or a hash of our own, nearby keys give unrelated seeds.
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
        yield
