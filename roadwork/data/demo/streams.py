"""Random numbers that depend on what they are for, so that no two uses share a sequence."""

import numpy as np


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """The generator for one purpose, and for one numbered thing of it.

    The purpose comes first because numpy ignores trailing zeros: (0, 0) would repeat what a user draws from seed 0.
    """
    return np.random.default_rng((int.from_bytes(purpose.encode()), seed, *numbers))
