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
def test_weights_that_do_not_fit_are_refused(folder, change, message, capfd):
    change_weights(folder, change)
    with pytest.raises(DataError, match=message) as caught:
        load_network(folder, CPU)
    assert "Export again" in str(caught.value)
    assert caught.value.__cause__ is None  # no stack trace of transformers behind it
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file_is_refused(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.safetensors"):
        Detector.load(folder, "cpu")


def test_bytes_that_are_no_weights_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    with pytest.raises(DataError, match="cannot be loaded"):
        Detector.load(folder, "cpu")


@pytest.mark.parametrize(("old", "new"), [('"resnet"', '"unheard-of"'), ("8,", '"eight",'), ("16", "24")])
def test_a_config_of_another_network_is_refused(folder, old, new):
    path = folder / "config.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError):
        Detector.load(folder, "cpu")


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors.*model\.onnx"):
        Detector.load(folder, "cpu")


def test_weights_are_computed_with_in_float32(folder):
    """transformers 5 keeps the type of the file: float16 is a dozen times slower on a CPU."""
    change_weights(
        folder, lambda weights: weights.update({k: v.half() for k, v in weights.items() if v.is_floating_point()})
    )
    pixels = torch.rand(2, 3, 32, 32)
    assert load_network(folder, CPU)(pixels).dtype == torch.float32


def test_loading_is_silent(tmp_path, capfd):
    for model_type in ("vit", "dinov2"):
        load_network(make_model_folder(tmp_path / model_type, model_type), CPU)
        capfd.readouterr()  # what making it said
        load_network(tmp_path / model_type, CPU)
        assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "", "cuda" if not torch.cuda.is_available() else "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device, folder):
    with pytest.raises(ConfigError, match="auto, cpu"):
        choose_network_device(folder, device)
