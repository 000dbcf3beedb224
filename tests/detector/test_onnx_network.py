import shutil
import sys

import onnx
import onnxruntime
import pytest
import torch
from fixtures.detectors import FACTS, make_model_folder
from transformers import AutoModelForImageClassification

from roadwork.core.errors import ConfigError, DataError, MissingExtraError, WiringError
from roadwork.detector.detector import Detector
from roadwork.detector.networks import choose_network_device
from roadwork.export import onnx as export_onnx
from roadwork.export.onnx import check_onnx_installed, write_onnx


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same detector in both forms."""
    hf = make_model_folder(tmp_path_factory.mktemp("hf"))
    onnx = tmp_path_factory.mktemp("onnx") / "model"
    shutil.copytree(hf, onnx)
    network = AutoModelForImageClassification.from_pretrained(hf, dtype=torch.float32)
    write_onnx(network.eval(), onnx, torch.randn(6, 3, 32, 32), FACTS.temperature)
    (onnx / "model.safetensors").unlink()
    return hf, onnx


@pytest.mark.parametrize("batch", [1, 2, 5, 17])
def test_onnx_and_pytorch_agree(pair, batch):
    hf, onnx = (Detector.load(folder, "cpu") for folder in pair)
    pixels = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(batch))
    assert torch.allclose(hf.logits(pixels), onnx.logits(pixels), atol=1e-5)
    assert onnx.logits(pixels).shape == (batch, 2)


def test_onnx_and_pytorch_return_the_same_features(pair):
    pixels = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected, found = (Detector.load(folder, "cpu").logits_and_features(pixels) for folder in pair)
    assert torch.allclose(expected[1], found[1], atol=1e-5)
    assert torch.allclose(expected[0], found[0], atol=1e-5)
    assert found[1].shape[0] == 3


def test_older_onnx_file_has_no_features(pair, tmp_path):
    folder = shutil.copytree(pair[1], tmp_path / "model")
    model = onnx.load(folder / "model.onnx")
    model.graph.output.pop()
    onnx.save(model, folder / "model.onnx")
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    logits, features = Detector.load(folder, "cpu").logits_and_features(pixels)
    assert features is None
    assert torch.equal(logits, Detector.load(pair[1], "cpu").logits(pixels))


def test_onnxruntime_uses_torchs_thread_limit(pair, monkeypatch):
    started = {}
    session = onnxruntime.InferenceSession

    def start(path, options, providers):
        started["threads"], started["providers"] = options.intra_op_num_threads, providers
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", start)
    Detector.load(pair[1], "cpu")
    assert started == {"threads": torch.get_num_threads(), "providers": ["CPUExecutionProvider"]}


def test_gpu_is_used_only_if_onnxruntime_supports_it(pair, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert choose_network_device(pair[1], "auto").type == "cpu"
    assert choose_network_device(pair[0], "auto").type == "cuda"
    monkeypatch.setattr("roadwork.detector.detector.choose_network_device", lambda folder, device: torch.device(device))
    with pytest.raises(ConfigError, match="onnxruntime-gpu"):
        Detector.load(pair[1], "cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert choose_network_device(pair[1], "auto").type == "cuda"


def test_missing_onnxruntime_shows_the_install_command(pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'roadwork-vision\[onnx\]'"):
        Detector.load(pair[1], "cpu")


def test_missing_exporter_packages_show_the_install_command(monkeypatch):
    monkeypatch.setattr(export_onnx, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingExtraError, match=r"onnxscript.*pip install 'roadwork-vision\[onnx\]'"):
        check_onnx_installed()


@pytest.mark.parametrize("keep", [0, 1000, 20_000])
def test_damaged_file_is_rejected(pair, keep, tmp_path, capfd):
    folder = shutil.copytree(pair[1], tmp_path / "model")
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"model\.onnx"):
        Detector.load(folder, "cpu")
    assert "".join(capfd.readouterr()) == ""


def test_onnx_file_with_other_outputs_is_rejected(pair, tmp_path, monkeypatch):
    network = AutoModelForImageClassification.from_pretrained(pair[0], dtype=torch.float32).eval()
    network.classifier[1].bias.data += 2e-4
    monkeypatch.setattr(export_onnx, "_convert", lambda *_: (pair[1] / "model.onnx").read_bytes())
    with pytest.raises(WiringError, match=r"model\.onnx.*batch of 1"):
        write_onnx(network, tmp_path, torch.randn(5, 3, 32, 32), 1.0)
