"""Devices of a run: Lightning arguments, synchronized BatchNorm, compile, gradient checkpointing."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync, TorchSyncBatchNorm
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel
from typing_extensions import override

from roadwork.core.devices import devices_here
from roadwork.core.errors import ConfigError
from roadwork.settings import TrainingSettings

logger = logging.getLogger(__name__)


# torch 2.13 has another name for it, and warns of the old one.
_BUFFER_SYNC = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in inspect.signature(DistributedDataParallel).parameters
)


class SharedBatchNorm(LayerSync):
    """Lets each `nn.BatchNorm2d` of a network normalise by the statistics of all processes' images.

    The layers change their class in place: parameters and buffers stay the objects that an average or an optimizer
    holds.
    """

    @override
    def apply(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = _SharedBatchNorm2d
        return model

    @override
    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if type(layer) is _SharedBatchNorm2d:
                layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # back to what it was
        return model


class _SharedBatchNorm2d(nn.BatchNorm2d):
    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        over = (0, 2, 3)
        rows = input.new_tensor([input.numel() / input.shape[1]])
        *_, n = total = _sum_of_all(torch.cat([input.sum(over), rows]))
        mean = total[:-1] / n
        centred = input - mean[:, None, None]
        variance = _sum_of_all((centred**2).sum(over)) / n
        self._remember(mean, variance * n / (n - 1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    @override
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_of_all(values: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(values)  # type: ignore[no-untyped-call]  # torch gives it no types
    return total


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


def checkpoint_gradients(network: nn.Module) -> None:
    """Lets a network compute activations again in the backward pass, layer by layer, instead of keeping them.

    The gradients are the same. Without reentrance they also reach adapters inside layers whose input needs none.

    Raises:
        ConfigError: it is not made of layers that can do so.
    """
    name = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
    refused = ConfigError(
        f"training.gradient_checkpointing is true, but a {name} has no layers that compute their activations again. "
        "Set it to false, or choose a transformer such as model=dinov2_base."
    )
    if not isinstance(network, PreTrainedModel):
        raise refused
    # transformers 5 has renamed it on the way.
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError:
        raise refused from None


def compile_network(network: nn.Module, device: torch.device) -> None:
    """Has torch.compile replace the network's calls, in place: weights, names and hooks stay what they are.

    Compiling itself happens at the first call, and again where shapes or modes differ: the first validation, and the
    last, smaller batch, from where on sizes are left open.

    Args:
        network: it; only its call is replaced.
        device: where it will run; a compiler for it is tried on one line of arithmetic.

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
