"""FLOPs and memory of a network, counted from its shapes on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from roadwork.models.build import build_model
from roadwork.models.head import in_evaluation_mode
from roadwork.settings import ModelSettings

_FEW, _MANY = 2, 4  # batch sizes that differ by two images


def build_without_weights(model: ModelSettings, img_size: int) -> PreTrainedModel:
    """The network of `build_model` on the meta device: shapes without memory.

    Raises:
        ConfigError: as `build_model`.
    """
    with torch.device("meta"):
        return build_model(model, img_size)


def forward_flops(network: nn.Module, img_size: int) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add is two.

    Matrix products, convolutions and attention count (torch.utils.flop_counter); norms and activations do not. torch
    does not count fused attention on a CPU, so pass a network on the meta device.
    """
    counter = FlopCounterMode(display=False)
    with in_evaluation_mode(network), torch.no_grad(), counter:
        network(pixel_values=_blank_images(network, 1, img_size))
    return int(counter.get_total_flops())


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def state_bytes(network: nn.Module, *, use_ema: bool) -> int:
    """Bytes that training needs besides the weights, for any batch: gradients, AdamW's two moments, and the EMA."""
    return (4 if use_ema else 3) * sum(p.nbytes for p in network.parameters() if p.requires_grad)


def training_bytes(network: nn.Module, img_size: int, batch: int, *, use_ema: bool) -> int:
    """Bytes of a training step in float32: weights + `state_bytes` + batch x `bytes_per_image`.

    The device's context, fragmentation and the images in the loader's processes are not counted. On the meta device
    attention keeps its matrix of all pairs, which fused kernels do not, so the estimate is too high for them. In
    bf16-mixed the activations, usually the largest part, take about half.

    Args:
        network: in training mode, with its adapter; parameters with `requires_grad` are trained.
        img_size: height and width of the images in pixels.
        batch: images per step.
        use_ema: whether training keeps an average of the weights.
    """

    def loss(rows: int) -> Tensor:
        logits = network(pixel_values=_blank_images(network, rows, img_size)).logits
        return nn.functional.cross_entropy(logits, torch.zeros(rows, dtype=torch.int64, device=logits.device))

    per_image = bytes_per_image(loss, network, img_size)
    return weight_bytes(network) + state_bytes(network, use_ema=use_ema) + round(batch * per_image)


def prediction_bytes(network: nn.Module, img_size: int, batch: int) -> int:
    """Bytes of a forward pass without gradients in float32: weights + batch x `bytes_per_image`."""

    def logits(rows: int) -> Tensor:
        output: Tensor = network(pixel_values=_blank_images(network, rows, img_size)).logits
        return output

    with in_evaluation_mode(network), torch.no_grad():
        return weight_bytes(network) + round(batch * bytes_per_image(logits, network, img_size))


def bytes_per_image(forward: Callable[[int], Tensor], network: nn.Module, img_size: int) -> float:
    """Bytes that each further image adds: activations kept for the backward pass, and temporary ones.

    The temporary ones are estimated as four images in float32 and four times the largest output of a layer.

    Args:
        forward: the forward pass of a batch of this many images.
        network: the network that it calls.
        img_size: height and width of the images in pixels.
    """
    few, many = (_count_bytes(partial(forward, batch), network) for batch in (_FEW, _MANY))
    kept, largest = ((more - less) / (_MANY - _FEW) for less, more in zip(few, many, strict=True))
    return kept + 4 * largest + 4 * 4 * 3 * img_size * img_size


def kept_bytes(forward: Callable[[], Tensor], held: Iterable[Tensor] = ()) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once, without the tensors in `held`."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[_storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    del loss  # it kept the storages alive, so that no address was used twice
    for tensor in held:
        storages.pop(_storage_id(tensor), None)
    return sum(storages.values())


def _storage_id(tensor: Tensor) -> int:
    # On the meta device every tensor's data address is 0.
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001  # torch has no public name for it


def _count_bytes(forward: Callable[[], Tensor], network: nn.Module) -> tuple[int, int]:
    """(bytes that a forward pass keeps for the backward pass, bytes of the largest output of a layer)."""
    outputs = [0]

    def record(_module: nn.Module, _args: object, output: object) -> None:
        outputs.append(output.nbytes if isinstance(output, Tensor) else 0)

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    kept = kept_bytes(forward, network.parameters())
    for hook in hooks:
        hook.remove()
    return kept, max(outputs)


def _blank_images(network: nn.Module, batch: int, img_size: int) -> Tensor:
    return torch.zeros(batch, 3, img_size, img_size, device=next(network.parameters()).device)
