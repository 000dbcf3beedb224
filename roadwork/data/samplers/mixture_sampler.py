"""Draws training rows by their dataset alone, where GPS sampling is off."""

import numpy as np

from roadwork.data.samplers.class_sampler import ClassSampler, check_drawing
from roadwork.data.samplers.mixture import Mixture


class MixtureSampler(ClassSampler):
    """A ``ClassSampler`` whose classes are the datasets of a mixture: the rows of one have equal weights."""

    def __init__(
        self,
        mixture: Mixture,
        random_seed: int = 42,
        *,
        draw: str = "systematic",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Weighs the datasets; the arguments are those of ``ClassSampler``.

        Raises:
            ConfigError: An argument that cannot be used.
            DataError: No row can be drawn as the mixture asks for.
        """
        check_drawing(random_seed, draw, rank, world_size)
        sizes = np.bincount(mixture.index, minlength=len(mixture))
        super().__init__(
            mixture.index,
            mixture.factors(sizes.astype(np.float64)),
            draw=draw,
            random_seed=random_seed,
            rank=rank,
            world_size=world_size,
        )
