"""Ctrl-C and a request to end, noted, so that the work at hand is finished first."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the command was asked to stop.

    Attributes:
        signal_number: by which signal; 0 while it was not.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def is_wanted(self) -> bool:
        return self.signal_number != 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM; a second one acts at once."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in before.items():
            signal.signal(each, handler)
        print("Stopping after this batch; once more stops at once.", file=sys.stderr)

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
