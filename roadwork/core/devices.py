"""Memory and devices of this machine."""

from __future__ import annotations

from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch

from roadwork.core.errors import ConfigError

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Free memory without swapping: that of the machine, or what is left of the container's limit (cgroup 2)."""
    machine = int(psutil.virtual_memory().available)
    try:
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or no limit ("max")
        return machine
    return min(machine, limit - used)


def choose_device(name: str = "auto") -> torch.device:
    """The torch device with a name.

    Args:
        name: `auto` for this machine's accelerator, else the CPU; or a torch device, such as `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: this machine has no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        n_found = 0 if found is None else torch.accelerator.device_count()
        here = ", ".join(["cpu", *(f"{found.type}:{number}" for number in range(n_found) if found)])
        raise ConfigError(
            f"The device is {name!r}, which cannot be used here ({str(error).splitlines()[0]}). "
            f"Allowed on this machine: auto, {here}."
        ) from None
    return device


def devices_here(devices: int | str, accelerator: str) -> int:
    """The number of devices on this machine that train together.

    Args:
        devices: `training.devices`, a number or `auto`.
        accelerator: `training.accelerator`.
    """
    if devices != "auto":
        return int(devices)
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1
