"""Loads the network of an exported folder, in PyTorch or ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from roadwork.core.devices import choose_device
from roadwork.core.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUT_NAME, OUTPUT_NAME = "pixel_values", "logits"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"


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


def choose_network_device(folder: Path, device: str) -> torch.device:
    """The device of an exported network; `auto` is a GPU if the machine has one that the folder's format can use.

    Raises:
        ConfigError: there is no such device.
    """
    if device == "auto":
        usable = torch.cuda.is_available() and ((folder / WEIGHTS_FILE).is_file() or has_cuda())
        return torch.device("cuda" if usable else "cpu")
    return choose_device(device)


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
        return load_onnx(folder / ONNX_FILE, device)
    raise DataError(f"{folder} has neither {WEIGHTS_FILE} nor {ONNX_FILE}. Export again.")


def _load_weights(folder: Path) -> PreTrainedModel:
    # Slow to import, and a detector in ONNX needs none of them.
    from huggingface_hub.errors import StrictDataclassError  # noqa: PLC0415
    from safetensors import SafetensorError  # noqa: PLC0415
    from transformers import AutoModelForImageClassification  # noqa: PLC0415

    from roadwork.models.architecture import register_networks  # noqa: PLC0415
    from roadwork.models.build import without_transformers_report  # noqa: PLC0415

    path = folder / WEIGHTS_FILE
    register_networks()
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
