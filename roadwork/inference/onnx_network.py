"""The network of an exported folder in ONNX, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from roadwork.errors import ConfigError, DataError, MissingExtraError

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def has_cuda() -> bool:
    """Whether onnxruntime is installed and can use a GPU."""
    try:
        return _CUDA in _import_onnxruntime().get_available_providers()
    except MissingExtraError:
        return False


def load_onnx(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The network of a file: (B, 3, S, S) float32 to logits (B, 2), both on `device`.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: it has not got the device.
        DataError: the file is damaged.
    """
    onnxruntime = _import_onnxruntime()
    session = _start(onnxruntime, path, _providers(onnxruntime, device))

    def network(pixels: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: pixels.cpu().numpy()})
        return torch.from_numpy(logits).to(device)

    return network


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415 -- an extra
    except ImportError:
        raise MissingExtraError(
            "A detector in ONNX needs onnxruntime, which is missing. Install it: pip install 'roadwork-vision[onnx]'"
        ) from None
    module: ModuleType = onnxruntime
    return module


def _providers(onnxruntime: ModuleType, device: torch.device) -> list[Any]:
    available = onnxruntime.get_available_providers()
    if device.type == "cpu":
        return [_CPU]
    if device.type == "cuda" and _CUDA in available:
        return [(_CUDA, {"device_id": device.index or 0}), _CPU]
    raise ConfigError(
        f"The device is {str(device)!r}, but this onnxruntime computes on {', '.join(available)} only. Use the device "
        "cpu, install onnxruntime-gpu, or export with --format hf."
    )


def _start(onnxruntime: ModuleType, path: Path, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # what the user allows torch; its own choice is all cores
    # Threads that spin while they wait take the time of the process that reads photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 -- its errors have no class in common but this
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be loaded ({reason}). It is damaged; export again.") from None
    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    if names != [INPUT_NAME, OUTPUT_NAME]:
        raise DataError(f"{path} maps {names}, where {[INPUT_NAME, OUTPUT_NAME]} was expected. Export again.")
    return session
