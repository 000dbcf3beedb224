"""What this machine has: memory, devices."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from roadwork.settings import TrainingSettings

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that can be taken without swapping: the machine's, or what its container may still have (cgroup 2)."""
    machine = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return machine
    return min(machine, limit - used)


def devices_here(training: TrainingSettings) -> int:
    """The devices of this machine that train together."""
    if training.devices != "auto":
        return int(training.devices)
    on_gpu = training.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1
