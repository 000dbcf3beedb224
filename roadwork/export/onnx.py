"""`model.onnx`: the folded network for onnxruntime, with any batch size."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from roadwork.core.errors import ConfigError, MissingExtraError
from roadwork.core.files import atomic_path
from roadwork.detector.networks import FEATURES_NAME, INPUT_NAME, ONNX_FILE, OUTPUT_NAME, load_onnx
from roadwork.export.parity import Parity, compare_logits, network_logits
from roadwork.models.head import logits_and_features

# Supported by onnxruntime since 1.17.
OPSET = 20
# Different from the traced size; 1 is included because tracers may treat it as a constant.
BATCH_SIZES = (1, 5)
_TRACED = 2
# The limit of a protobuf message.
_MOST_BYTES = 2**31 - 2**24
_NEEDED = ("onnx", "onnxscript", "onnxruntime")


class _Outputs(nn.Module):
    """A transformers network as a function of one tensor, to logits (B, 2) and penultimate features (B, D)."""

    def __init__(self, network: PreTrainedModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        return logits_and_features(self.network, pixel_values)


def check_onnx_installed() -> None:
    """Checks that the packages for an export to ONNX are installed.

    Raises:
        MissingExtraError: a package is missing.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"--format onnx needs {', '.join(missing)}, which is not installed. Install it: "
            "pip install 'roadwork-vision[onnx]'"
        )


def write_onnx(network: PreTrainedModel, folder: Path, inputs: Tensor, temperature: float) -> list[Parity]:
    """Writes model.onnx, and compares it with the network.

    Args:
        network: the folded network, on the CPU and in evaluation mode.
        folder: the export.
        inputs: (N, 3, S, S) network inputs, N at least 5.
        temperature: the temperature folded into the network.

    Returns:
        A comparison for each of BATCH_SIZES.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        ConfigError: the network is too large for one file, or ONNX does not support it.
        WiringError: the outputs of the file differ from those of the network.
    """
    check_onnx_installed()
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if size > _MOST_BYTES:
        raise ConfigError(f"The network has {size / 1e9:.1f} GB; ONNX allows 2 GB. Export with --format hf.")
    path = folder / ONNX_FILE
    with atomic_path(path) as temporary:
        temporary.write_bytes(_convert(network, inputs[:_TRACED]))
    session = load_onnx(path, torch.device("cpu"))
    return [
        compare_logits(
            f"{ONNX_FILE} against the network, in a batch of {count}",
            session(inputs[:count]).double(),
            network_logits(network, inputs[:count]),
            temperature,
        )
        for count in BATCH_SIZES
    ]


def _convert(network: PreTrainedModel, inputs: Tensor) -> bytes:
    with _without_remarks():
        try:
            program = torch.onnx.export(
                _Outputs(network).eval(),
                (inputs,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME, FEATURES_NAME],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConfigError(
                f"torch cannot convert this {network.config.model_type} to ONNX ({str(error).splitlines()[0]}). "
                "Export with --format hf."
            ) from error
    if program is None:
        raise ConfigError(f"torch cannot convert this {network.config.model_type} to ONNX. Export with --format hf.")
    model = program.model_proto
    _drop_origins(model)
    data: bytes = model.SerializeToString()
    return data


def _drop_origins(model: Any) -> None:
    """Removes the stack traces of the nodes, which contain paths of this machine."""
    for graph in (model.graph, *model.functions):
        for part in (*graph.node, *graph.value_info, *getattr(graph, "input", ()), *getattr(graph, "output", ())):
            if hasattr(part, "metadata_props"):
                part.ClearField("metadata_props")
                part.ClearField("doc_string")
        graph.ClearField("metadata_props")
        graph.ClearField("doc_string")


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Hides the exporter's messages about missing torchvision and about its own deprecated call."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
            yield
    finally:
        log.setLevel(level)
