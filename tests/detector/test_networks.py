import shutil

import pytest
import torch
from fixtures.detectors import make_model_folder
from safetensors.torch import load_file, save_file

from roadwork.core.errors import ConfigError, DataError
from roadwork.detector.detector import Detector
from roadwork.detector.networks import choose_network_device, load_network

CPU = torch.device("cpu")


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def drop_head(weights):
    del weights["classifier.1.weight"]


def add_one(weights):
    weights["somebody.elses"] = torch.zeros(1)


def reshape_head(weights):
    weights["classifier.1.weight"] = torch.zeros(3, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_head, r"classifier\.1\.weight"),
        (add_one, r"somebody\.elses"),
        (reshape_head, "cannot be loaded"),
    ],
)
def test_mismatched_weights_are_rejected(folder, change, message, capfd):
    change_weights(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        load_network(folder, CPU)
    assert "Export again" in str(caught.value)
    assert caught.value.__cause__ is None  # no traceback from transformers
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_damaged_file_is_rejected(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        Detector.load(folder, "cpu")


def test_invalid_weights_file_is_rejected(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    with pytest.raises(DataError, match="cannot be loaded"):
        Detector.load(folder, "cpu")


@pytest.mark.parametrize(("old", "new"), [('"resnet"', '"unheard-of"'), ("8,", '"eight",'), ("16", "24")])
def test_config_of_another_network_is_rejected(folder, old, new):
    path = folder / "config.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError):
        Detector.load(folder, "cpu")


def test_folder_without_weights_is_rejected(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors.*model\.onnx"):
        Detector.load(folder, "cpu")


def test_weights_are_loaded_as_float32(folder):
    """transformers 5 keeps the file's type, and float16 is a dozen times slower on a CPU."""
    change_weights(
        folder, lambda weights: weights.update({k: v.half() for k, v in weights.items() if v.is_floating_point()})
    )
    pixels = torch.rand(2, 3, 32, 32)
    assert load_network(folder, CPU)(pixels).dtype == torch.float32


def test_loading_is_silent(tmp_path, capfd):
    for model_type in ("vit", "dinov2"):
        load_network(make_model_folder(tmp_path / model_type, model_type), CPU)
        capfd.readouterr()  # discards the output of its creation
        load_network(tmp_path / model_type, CPU)
        assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "", "cuda" if not torch.cuda.is_available() else "cuda:99"])
def test_missing_device_is_rejected(device, folder):
    with pytest.raises(ConfigError, match="auto, cpu"):
        choose_network_device(folder, device)
