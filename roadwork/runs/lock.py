"""The run lock: at most one process trains a run."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roadwork.core.errors import DataError

try:
    from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock
except ImportError:  # Windows: nothing is claimed, and no run is known to be running
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """While the block runs, no other process can claim the run's folder; a process that dies lets go of it.

    The lock (flock) is the system's, on the folder itself: it leaves no file behind that could be stale. Where the
    file system has no such locks, nothing is claimed.

    Raises:
        DataError: another process trains the run.
    """
    descriptor = _lock(folder, is_exclusive=True)
    for _ in range(_RETRIES):  # whoever looks holds the lock, too, for a moment
        if descriptor is not None:
            break
        time.sleep(_PAUSE_SECONDS)
        descriptor = _lock(folder, is_exclusive=True)
    if descriptor is None:
        raise _taken(folder)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        _close(descriptor)


def is_claimed(folder: Path) -> bool:
    """Whether a process trains the run now; those on other machines are not seen on every file system."""
    descriptor = _lock(folder, is_exclusive=False)
    if descriptor is None:
        return True
    _close(descriptor)
    return False


def check_unclaimed(folder: Path) -> None:
    """Raises DataError where a process trains the run now."""
    if is_claimed(folder):
        raise _taken(folder)


def _taken(folder: Path) -> DataError:
    return DataError(f"{folder} is being trained by another process of this machine. Wait for it, or stop it.")


def _lock(folder: Path, *, is_exclusive: bool) -> int | None:
    """A descriptor that holds the folder's lock, or none where locks are not to be had; None where another has it."""
    if not _HAS_LOCKS:
        return _NO_DESCRIPTOR
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flock(descriptor, (LOCK_EX if is_exclusive else LOCK_SH) | LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # some network file systems have no locks on folders
        os.close(descriptor)
        return _NO_DESCRIPTOR
    return descriptor


def _close(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.close(descriptor)


def _close_in_child() -> None:
    # A lock lasts as long as any copy of its descriptor: a loader's worker would hold the run of a dead trainer.
    for descriptor in _held:
        _close(descriptor)
    _held.clear()


_NO_DESCRIPTOR = -1


_RETRIES, _PAUSE_SECONDS = 4, 0.1


_held: set[int] = set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
