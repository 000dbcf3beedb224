"""One device or several: what Lightning's Trainer is told, and what a step is then of."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from lightning.pytorch.plugins import LayerSync, TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from roadwork.settings import TrainingSettings
from roadwork.training.batch_norm import SharedBatchNorm

# torch 2.13 has another name for it, and warns of the old one.
_BUFFER_SYNC = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def devices_here(training: TrainingSettings) -> int:
    """The devices of this machine that train together."""
    if training.devices != "auto":
        return int(training.devices)
    on_gpu = training.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.cuda.device_count() if on_gpu else 1


def device_arguments(training: TrainingSettings, *, alone: bool = False) -> dict[str, Any]:
    """Lightning's arguments for the devices that train together; `alone`: for the first of them, whatever is set."""
    one = {"accelerator": training.accelerator, "devices": 1}
    if alone or devices_here(training) * training.num_nodes == 1:
        return one
    # Buffers need no sending: they are shared as they are made (batch_norm_plugin). Sent before each forward pass, they
    # would hang validation, in which processes have different numbers of batches.
    no_sync: dict[str, Any] = {_BUFFER_SYNC: False}
    return one | {
        "devices": devices_here(training),
        "num_nodes": training.num_nodes,
        "strategy": DDPStrategy(**no_sync),
        "use_distributed_sampler": False,  # ours know their rank, and repeat no row
    }


def batch_norm_plugins(training: TrainingSettings, *, alone: bool = False) -> list[LayerSync]:
    """What makes BatchNorm take its statistics of the images of all devices."""
    if alone or devices_here(training) * training.num_nodes == 1:
        return []
    on_cpu = training.accelerator == "cpu" or not torch.accelerator.is_available()
    return [SharedBatchNorm() if on_cpu else TorchSyncBatchNorm()]


def describe_step(training: TrainingSettings, batch_size: int, n_processes: int) -> str:
    """What a step is of, for the log."""
    images = f"{batch_size} images"
    if training.accumulate > 1:
        images += f" in each of {training.accumulate} batches"
    if n_processes > 1:
        machines = f", on {training.num_nodes} machines" if training.num_nodes > 1 else ""
        images += f" on each of {n_processes} devices{machines}"
    total = batch_size * training.accumulate * n_processes
    in_all = f": {total} a step" if total != batch_size else " a step"
    return f"{images}{in_all}; learning rate {training.lr:g}, not scaled with it."
