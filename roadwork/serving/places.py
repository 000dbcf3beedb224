"""The bounded queue: how many photos may be in the service at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from roadwork.serving.limits import Limits
from roadwork.serving.refusals import queue_full


class Hold:
    """The places of one request."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self.count = 0

    def take(self, count: int) -> None:
        """Takes further places.

        Raises:
            Refusal: there are not so many left.
        """
        self._places.take(count)
        self.count += count


class Places:
    """One for each photo that is being uploaded, decoded or answered.

    A request has one from its first byte on, so that uploads are bounded as well, and one more for each further photo.
    Used from the event loop only.

    Attributes:
        taken: how many are.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.taken = 0

    def take(self, count: int) -> None:
        """As `Hold.take`."""
        if self.taken + count > self._limits.queue:
            raise queue_full(self._limits)
        self.taken += count

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """One place, given back at the end with those that were taken on top.

        Raises:
            Refusal: there is none left.
        """
        hold = Hold(self)
        hold.take(1)
        try:
            yield hold
        finally:
            self.taken -= hold.count
