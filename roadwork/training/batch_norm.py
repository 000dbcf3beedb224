"""BatchNorm over the images of all processes, for CPUs; torch's SyncBatchNorm needs GPUs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from typing_extensions import override


class CPUSyncBatchNorm(LayerSync):
    """Makes each `nn.BatchNorm2d` of a network normalise by the statistics of all processes' images.

    The layers change their class in place, so parameters and buffers stay the objects that EMA and optimizer hold.
    """

    @override
    def apply(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = _SyncBatchNorm2d
        return model

    @override
    def revert(self, model: nn.Module) -> nn.Module:
        for layer in model.modules():
            if type(layer) is _SyncBatchNorm2d:
                layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]  # its former class
        return model


class _SyncBatchNorm2d(nn.BatchNorm2d):
    @override
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        over = (0, 2, 3)
        rows = input.new_tensor([input.numel() / input.shape[1]])
        *_, n = total = _sum_over_processes(torch.cat([input.sum(over), rows]))
        mean = total[:-1] / n
        centred = input - mean[:, None, None]
        variance = _sum_over_processes((centred**2).sum(over)) / n
        self._update_running_statistics(mean, variance * n / (n - 1))
        scale = torch.rsqrt(variance + self.eps) * self.weight
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight_of_batch = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight_of_batch)
        self.running_var.lerp_(variance, weight_of_batch)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of theirs."""

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


def _sum_over_processes(values: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(values)  # type: ignore[no-untyped-call]  # torch does not type it
    return total
