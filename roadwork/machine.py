"""What the machine has to give."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that can be taken without swapping: the machine's, or what its container may still have (cgroup 2)."""
    machine = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return machine
    return min(machine, limit - used)
