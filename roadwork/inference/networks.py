"""The network of an exported folder, from its weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification

from roadwork.errors import DataError

WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"


def load_network(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network on a device: (B, 3, S, S) float32 to logits (B, 2).

    Raises:
        DataError: the folder has no weights, or they do not fit its config.json.
    """
    if not (folder / WEIGHTS_FILE).is_file():
        raise DataError(f"{folder} has neither {WEIGHTS_FILE} nor {ONNX_FILE}. Export again.")
    network = AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    network = network.to(device).eval()
    return lambda pixels: network(pixel_values=pixels).logits
