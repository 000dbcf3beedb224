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
except ImportError:  # Windows: runs are never locked, and none counts as running
    _HAS_LOCKS = False
else:
    _HAS_LOCKS = True

_NO_DESCRIPTOR = -1
_RETRIES, _PAUSE_SECONDS = 4, 0.1
_held: set[int] = set()


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Locks a run's folder while the block runs.

    It is a system lock (flock) on the folder itself: it creates no file, and ends with the process. File systems
    without such locks are not locked.

    Raises:
        DataError: another process trains the run.
    """
    descriptor = _lock(folder, is_exclusive=True)
    for _ in range(_RETRIES):  # `is_locked` in another process holds the lock for a moment
        if descriptor is not None:
            break
        time.sleep(_PAUSE_SECONDS)
        descriptor = _lock(folder, is_exclusive=True)
    if descriptor is None:
        raise _locked_error(folder)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        _close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process trains the run now. Some file systems do not show processes on other machines."""
    descriptor = _lock(folder, is_exclusive=False)
    if descriptor is None:
        return True
    _close(descriptor)
    return False


def check_unlocked(folder: Path) -> None:
    """Raises DataError if a process trains the run now."""
    if is_locked(folder):
        raise _locked_error(folder)


def _locked_error(folder: Path) -> DataError:
    return DataError(f"{folder} is being trained by another process on this machine. Wait for it, or stop it.")


def _lock(folder: Path, *, is_exclusive: bool) -> int | None:
    """The descriptor of the locked folder, or `_NO_DESCRIPTOR` without lock support; None if another process has it."""
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
    # A lock lasts as long as any copy of its descriptor: a loader's worker would keep a dead trainer's run locked.
    for descriptor in _held:
        _close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
