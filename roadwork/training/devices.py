"""Lightning's Trainer under the training settings, gradient checkpointing, and torch.compile."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import LayerSync, TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from roadwork.core.devices import devices_here
from roadwork.core.errors import ConfigError
from roadwork.settings import TrainingSettings
from roadwork.training.batch_norm import CPUSyncBatchNorm
from roadwork.training.checkpoints import SafeCheckpointIO

logger = logging.getLogger(__name__)

# torch 2.13 has renamed this argument of DistributedDataParallel, and warns of the old name.
_BUFFER_SYNC = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


def device_arguments(training: TrainingSettings, *, alone: bool = False) -> dict[str, Any]:
    """Lightning's arguments for the devices that train together; with `alone`, for a single device."""
    if alone or devices_here(training.devices, training.accelerator) * training.num_nodes == 1:
        return {"accelerator": training.accelerator, "devices": 1}
    # Buffers need no broadcast: they are computed over all devices (batch_norm_plugins). A broadcast before each
    # forward pass would hang validation, in which processes have different numbers of batches.
    no_sync: dict[str, Any] = {_BUFFER_SYNC: False}
    return {
        "accelerator": training.accelerator,
        "devices": devices_here(training.devices, training.accelerator),
        "num_nodes": training.num_nodes,
        "strategy": DDPStrategy(**no_sync),
        "use_distributed_sampler": False,  # our samplers know their rank, and repeat no rows
    }


def batch_norm_plugins(training: TrainingSettings, *, alone: bool = False) -> list[LayerSync]:
    """Lightning plugins with which BatchNorm takes its statistics over the images of all devices."""
    if alone or devices_here(training.devices, training.accelerator) * training.num_nodes == 1:
        return []
    on_cpu = training.accelerator == "cpu" or not torch.accelerator.is_available()
    return [CPUSyncBatchNorm() if on_cpu else TorchSyncBatchNorm()]


def build_lightning_trainer(
    training: TrainingSettings, callbacks: list[Callback], folder: Path, *, alone: bool = False, **limits: Any
) -> L.Trainer:
    """Lightning's Trainer under the training settings.

    Args:
        training: epochs, precision, clipping, accumulation, accelerator.
        callbacks: in the order in which they are called.
        folder: where Lightning writes by default.
        alone: use one device and ignore `training.devices`, as in rank zero's dry run.
        limits: further arguments of Lightning's Trainer: the logger, or the limits of a dry run.

    Raises:
        ConfigError: Lightning does not accept the accelerator or the precision.
    """
    arguments: dict[str, Any] = {
        "max_epochs": training.epochs,
        "gradient_clip_val": training.clip_norm or None,
        "accumulate_grad_batches": training.accumulate,
        "precision": _precision(training.precision),
        "deterministic": training.deterministic,
        **device_arguments(training, alone=alone),
        "num_sanity_val_steps": 2,
        "plugins": [SafeCheckpointIO(), *batch_norm_plugins(training, alone=alone)],
        "enable_model_summary": False,
        "log_every_n_steps": 10,
    }
    try:
        return L.Trainer(callbacks=callbacks, default_root_dir=folder, **(arguments | limits))
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(
            f"Lightning does not take training.accelerator={training.accelerator!r} with "
            f"training.precision={training.precision!r} here: {error}"
        ) from error


def _precision(wanted: str) -> Any:
    if wanted != "auto":
        return wanted
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if has_bf16 else "32-true"


def describe_step(training: TrainingSettings, batch_size: int, world_size: int) -> str:
    """A line for the log: the images of an optimizer step, and its learning rate."""
    images = f"{batch_size} images"
    if training.accumulate > 1:
        images += f" in each of {training.accumulate} batches"
    if world_size > 1:
        machines = f", on {training.num_nodes} machines" if training.num_nodes > 1 else ""
        images += f" on each of {world_size} devices{machines}"
    total = batch_size * training.accumulate * world_size
    in_all = f": {total} a step" if total != batch_size else " a step"
    return f"{images}{in_all}; learning rate {training.lr:g}, not scaled with it."


def checkpoint_gradients(network: nn.Module) -> None:
    """Makes a network recompute activations in the backward pass, layer by layer, instead of keeping them.

    The gradients are the same. Non-reentrant checkpointing also reaches adapters in layers whose input needs none.

    Raises:
        ConfigError: the network does not support it.
    """
    name = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    refused = ConfigError(
        f"training.gradient_checkpointing is true, but a {name} does not support it. "
        "Set it to false, or choose a transformer such as model=dinov2_base."
    )
    if not isinstance(network, PreTrainedModel):
        raise refused
    # The name changed within transformers 5.
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise refused from None


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Compiles the network's forward pass in place with torch.compile; weights, names and hooks stay.

    Compilation happens at the first call, and again for other shapes or modes: the first validation, and the last,
    smaller batch, after which sizes are dynamic.

    Args:
        network: only its call is replaced.
        device: where it will run; the compiler is first tried on a one-line function.

    Raises:
        ConfigError: nothing can be compiled for the device here.
    """
    logger.info("Compiling the network: the first steps take long, up to minutes.")
    try:
        torch.compile(_one_line)(torch.ones(8, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"training.compile is true, but nothing can be compiled for {device.type} here: {reason} "
            "Install a C++ compiler (CPU: apt install g++) or Triton (GPU), or set training.compile=false."
        ) from error
    network.compile()


def _one_line(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.sin() + 1
