"""Draws each training row once an epoch."""

from collections.abc import Iterator
from itertools import islice

from torch.utils.data import DistributedSampler


class UniformSampler(DistributedSampler[int]):
    """A ``DistributedSampler`` that can begin in the middle of an epoch."""

    _start = 0

    def start_at(self, position: int) -> None:
        """Begins the next pass, and only that, at this position of this rank's order."""
        self._start = position

    def __iter__(self) -> Iterator[int]:
        start, self._start = self._start, 0
        return islice(super().__iter__(), start, None)
