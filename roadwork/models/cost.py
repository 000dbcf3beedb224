"""What a network costs in arithmetic and memory, counted from its shapes: the meta device needs no weights."""

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

_FEW, _MANY = 2, 4  # batches whose difference is that of two images


def build_without_weights(model: ModelSettings, img_size: int) -> PreTrainedModel:
    """The network that `build_model` gives, on the meta device: shapes alone, so that a ViT-L takes no memory.

    Raises:
        ConfigError: as of `build_model`.
    """
    with torch.device("meta"):
        return build_model(model, img_size)


def forward_flops(network: nn.Module, img_size: int) -> int:
    """Floating-point operations of one image's forward pass; a multiply-add is two.

    Matrix products, convolutions and attention are counted (torch.utils.flop_counter), not norms and activations; of
    fused attention on a CPU torch counts nothing, so ask it of a network on the meta device.
    """
    counter = FlopCounterMode(display=False)
    with in_evaluation_mode(network), torch.no_grad(), counter:
        network(pixel_values=_blank_images(network, 1, img_size))
    return int(counter.get_total_flops())


def weight_bytes(network: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def state_bytes(network: nn.Module, *, use_ema: bool) -> int:
    """What training holds beside the weights, whatever the batch: gradients, AdamW's two averages, and ours."""
    return (4 if use_ema else 3) * sum(p.nbytes for p in network.parameters() if p.requires_grad)


def training_bytes(network: nn.Module, img_size: int, batch: int, *, use_ema: bool) -> int:
    """Memory of a training step in float32: weights + `state_bytes` + batch x `bytes_a_row`.

    The device's own context, fragments and the images that wait in the loader's processes come on top. On the meta
    device attention keeps its matrix of all pairs, which fused kernels do not: for them it is too much. In bf16-mixed
    the activations, usually the largest part, take about half.

    Args:
        network: in training mode, adapter included; `requires_grad` says what is trained.
        img_size: height and width of the images in pixels.
        batch: images a step.
        use_ema: whether the weights are averaged.
    """

    def loss(rows: int) -> Tensor:
        logits = network(pixel_values=_blank_images(network, rows, img_size)).logits
        return nn.functional.cross_entropy(logits, torch.zeros(rows, dtype=torch.int64, device=logits.device))

    a_row = bytes_a_row(loss, network, img_size)
    return weight_bytes(network) + state_bytes(network, use_ema=use_ema) + round(batch * a_row)


def prediction_bytes(network: nn.Module, img_size: int, batch: int) -> int:
    """Memory of a forward pass in float32: weights + batch x `bytes_a_row`, none of them kept for gradients."""

    def logits(rows: int) -> Tensor:
        output: Tensor = network(pixel_values=_blank_images(network, rows, img_size)).logits
        return output

    with in_evaluation_mode(network), torch.no_grad():
        return weight_bytes(network) + round(batch * bytes_a_row(logits, network, img_size))


def bytes_a_row(forward: Callable[[int], Tensor], network: nn.Module, img_size: int) -> float:
    """What an image more adds: activations kept for the backward pass, and room for passing ones.

    Those in passing are four images in float32, and four times the largest output of a layer.

    Args:
        forward: the forward pass of a batch of so many images.
        network: the one that it calls.
        img_size: height and width of the images in pixels.
    """
    few, many = (_count_bytes(partial(forward, batch), network) for batch in (_FEW, _MANY))
    kept, largest = ((more - less) / (_MANY - _FEW) for less, more in zip(few, many, strict=True))
    return kept + 4 * largest + 4 * 4 * 3 * img_size * img_size


def kept_bytes(forward: Callable[[], Tensor], held: Iterable[Tensor] = ()) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once; `held` are there anyway: weights."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[_storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    del loss  # until here it kept the storages alive, so that none came twice at the same address
    for tensor in held:
        storages.pop(_storage_id(tensor), None)
    return sum(storages.values())


def _storage_id(tensor: Tensor) -> int:
    # Not the address of its data, which on the meta device is 0 for all.
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001  # torch has no public name for it


def _count_bytes(forward: Callable[[], Tensor], network: nn.Module) -> tuple[int, int]:
    """Bytes that a forward pass keeps for the backward pass, and those of the largest output of a layer."""
    outputs = [0]

    def see(_module: nn.Module, _args: object, output: object) -> None:
        outputs.append(output.nbytes if isinstance(output, Tensor) else 0)

    hooks = [module.register_forward_hook(see) for module in network.modules()]
    kept = kept_bytes(forward, network.parameters())
    for hook in hooks:
        hook.remove()
    return kept, max(outputs)


def _blank_images(network: nn.Module, batch: int, img_size: int) -> Tensor:
    return torch.zeros(batch, 3, img_size, img_size, device=next(network.parameters()).device)
