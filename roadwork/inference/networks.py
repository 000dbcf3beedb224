"""The network of an exported folder, from its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedModel

from roadwork.errors import ConfigError, DataError
from roadwork.models.build import without_transformers_report
from roadwork.models.own import register_own_networks

WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"


class TorchNetwork:
    """A classifier of transformers as a function: (B, 3, S, S) float32 to logits (B, 2).

    Attributes:
        module: the classifier itself, for those who take gradients.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module

    def __call__(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.module(pixel_values=pixels).logits
        return logits


def choose_device(folder: Path, device: str) -> torch.device:
    """Where an exported network computes: `auto` is a GPU where there is one that this folder's form can use.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        from roadwork.inference.onnx_network import has_cuda  # noqa: PLC0415 -- as load_network

        usable = torch.cuda.is_available() and ((folder / WEIGHTS_FILE).is_file() or has_cuda())
        return torch.device("cuda" if usable else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"The device is {device!r}, which cannot be used here ({str(error).splitlines()[0]}). Allowed: auto, cpu, "
            "or a device that torch has, as cuda or cuda:1."
        ) from None
    return chosen


def load_network(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network on a device: (B, 3, S, S) float32 to logits (B, 2), both on it.

    Raises:
        DataError: the folder has no weights, or they are damaged or do not fit its config.json.
        ConfigError: it is ONNX, and onnxruntime has not got the device.
        MissingExtraError: it is ONNX, and onnxruntime is not installed.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return TorchNetwork(_load_weights(folder).to(device).eval())
    if (folder / ONNX_FILE).is_file():
        from roadwork.inference.onnx_network import load_onnx  # noqa: PLC0415 -- only where it is one

        return load_onnx(folder / ONNX_FILE, device)
    raise DataError(f"{folder} has neither {WEIGHTS_FILE} nor {ONNX_FILE}. Export again.")


def _load_weights(folder: Path) -> PreTrainedModel:
    path = folder / WEIGHTS_FILE
    register_own_networks()
    try:
        with without_transformers_report():
            network, report = AutoModelForImageClassification.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
        raise DataError(
            f"{path} cannot be loaded as config.json describes it ({type(error).__name__}: {reason}). "
            "One of them is damaged, or they are of two exports. Export again."
        ) from None
    # A weight that is missing would be drawn at random, without an error.
    misfits = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    misfits += [f"{key} is not in the network" for key in sorted(report["unexpected_keys"])]
    if misfits:
        raise DataError(
            f"{path} does not hold the network of config.json: {'; '.join(misfits[:3])}"
            f"{f' and {len(misfits) - 3} more' if len(misfits) > 3 else ''}. Export again."
        )
    return network
