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

INPUT_NAME, OUTPUT_NAME, FEATURES_NAME = "pixel_values", "logits", "features"
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
WEIGHTS_FILE = "model.safetensors"
ONNX_FILE = "model.onnx"


def has_cuda() -> bool:
    """Whether onnxruntime is installed and can use a GPU."""
    try:
        return _CUDA in _import_onnxruntime().get_available_providers()
    except MissingExtraError:
        return False


class OnnxNetwork:
    """A session of onnxruntime as a function: (B, 3, S, S) float32 to logits (B, 2), both on `device`."""

    def __init__(self, session: Any, device: torch.device) -> None:
        self.session = session
        self.device = device
        self.has_features = FEATURES_NAME in [output.name for output in session.get_outputs()]

    def __call__(self, pixels: Tensor) -> Tensor:
        return self._run(pixels, [OUTPUT_NAME])[0]

    def with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, 2) and penultimate features (B, D); None if the file has no such output."""
        if not self.has_features:
            return self(pixels), None
        logits, features = self._run(pixels, [OUTPUT_NAME, FEATURES_NAME])
        return logits, features

    def _run(self, pixels: Tensor, outputs: list[str]) -> list[Tensor]:
        values = self.session.run(outputs, {INPUT_NAME: pixels.cpu().numpy()})
        return [torch.from_numpy(value).to(self.device) for value in values]


def load_onnx(path: Path, device: torch.device) -> OnnxNetwork:
    """The network in a file.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: onnxruntime does not support the device.
        DataError: the file is damaged.
    """
    onnxruntime = _import_onnxruntime()
    return OnnxNetwork(_start(onnxruntime, path, _providers(onnxruntime, device)), device)


def _import_onnxruntime() -> ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415 -- an extra
    except ImportError:
        raise MissingExtraError(
            "An ONNX detector needs onnxruntime, which is not installed. Install it: "
            "pip install 'roadwork-vision[onnx]'"
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
        f"The device is {str(device)!r}, but this onnxruntime supports only {', '.join(available)}. Use the device "
        "cpu, install onnxruntime-gpu, or export with --format hf."
    )


def _start(onnxruntime: ModuleType, path: Path, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # respects the user's limit; the default is all cores
    # Spinning threads would slow down the threads that decode photos.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # noqa: BLE001 -- its errors have no other common class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is damaged and cannot be loaded ({reason}). Export again.") from None
    names = [value.name for value in (*session.get_inputs(), *session.get_outputs())]
    expected = [INPUT_NAME, OUTPUT_NAME, FEATURES_NAME]
    if names not in (expected, expected[:2]):  # older exports have no features
        raise DataError(f"{path} has inputs and outputs {names}; expected {expected}. Export again.")
    return session


class TorchNetwork:
    """A transformers classifier as a function: (B, 3, S, S) float32 to logits (B, 2).

    Attributes:
        module: the classifier itself, for gradients.
    """

    def __init__(self, module: PreTrainedModel) -> None:
        self.module = module

    def __call__(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.module(pixel_values=pixels).logits
        return logits

    def with_features(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (B, 2) and penultimate features (B, D)."""
        from roadwork.models.head import logits_and_features  # noqa: PLC0415 -- not needed for ONNX

        return logits_and_features(self.module, pixels)


def choose_network_device(folder: Path, device: str) -> torch.device:
    """The device for an exported network; `auto` is a GPU if there is one that supports the folder's format.

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
        ConfigError: the folder has an ONNX file, and onnxruntime does not support the device.
        MissingExtraError: the folder has an ONNX file, and onnxruntime is not installed.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return TorchNetwork(_load_weights(folder).to(device).eval())
    if (folder / ONNX_FILE).is_file():
        return load_onnx(folder / ONNX_FILE, device)
    raise DataError(f"{folder} has neither {WEIGHTS_FILE} nor {ONNX_FILE}. Export again.")


def _load_weights(folder: Path) -> PreTrainedModel:
    # Slow to import, and not needed for ONNX.
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
            "One of them is damaged, or they come from different exports. Export again."
        ) from None
    # transformers would initialise a missing weight at random, without an error.
    misfits = [f"{key} is missing" for key in sorted(report["missing_keys"])]
    misfits += [f"{key} is not in the network" for key in sorted(report["unexpected_keys"])]
    if misfits:
        raise DataError(
            f"{path} does not fit config.json: {'; '.join(misfits[:3])}"
            f"{f' and {len(misfits) - 3} more' if len(misfits) > 3 else ''}. Export again."
        )
    return network
