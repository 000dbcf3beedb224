"""`verify_export`: an intact folder passes, and every violation fails its check."""

import json
import shutil
import time

import numpy as np
import pytest
import torch
from fixtures.detectors import FACTS, SIZE, TINY_NETWORKS, make_model_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.images import read_pixels, to_network_input
from roadwork.export import verify as verify_module
from roadwork.export.consumer import check_latency
from roadwork.export.model_card import HOTKEY_PLACEHOLDER
from roadwork.export.replay import write_replay
from roadwork.export.verify import VerifyOptions, verify_export
from roadwork.models.build import build_model
from roadwork.models.processor import IMAGENET_STATISTICS
from roadwork.settings import ModelSettings

CARD = {
    "model_name": "tiny",
    "description": "A tiny network.",
    "version": "1.0.0",
    "submitted_by": "5F3sa2TJAWMqDhXG6jhV4N8ko9SxwGy8TpaNS1repo5EYjQX",
    "submission_time": 1_790_000_000,
}
CONTRACT = VerifyOptions(consumer="streetvision")


@pytest.fixture(autouse=True)
def _small_large_photos(monkeypatch):
    """Writing photos of 12 megapixels takes seconds, and is not needed here."""
    monkeypatch.setattr(verify_module, "write_large_photo", lambda photo, path: Image.open(photo).save(path))


@pytest.fixture(scope="module")
def scenes(demo_root):
    return [path.read_bytes() for path in sorted((demo_root / "images").rglob("*.jpg"))[:12]]


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory, scenes):
    """An export whose replay has the predictions of the network before folding."""
    folder = make_model_folder(tmp_path_factory.mktemp("verify") / "model")
    torch.manual_seed(0)  # as make_model_folder does
    network = build_model(ModelSettings(name="resnet", config=TINY_NETWORKS["resnet"]), SIZE).eval()
    pixels = torch.stack([read_pixels(scene, SIZE) for scene in scenes])
    with torch.inference_mode():
        logits = network(pixel_values=to_network_input(pixels, IMAGENET_STATISTICS)).logits.double().numpy()
    write_replay(folder, scenes, expit((logits[:, 1] - logits[:, 0]) / FACTS.temperature), FACTS.threshold)
    (folder / "model_card.json").write_text(json.dumps(CARD))
    return folder


@pytest.fixture
def folder(good_folder, tmp_path):
    return shutil.copytree(good_folder, tmp_path / "model")


def change_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})


def raise_bias(by):
    """Adds to the biases (2,) of the head."""
    return lambda name, tensor: tensor + torch.tensor(by) if name == "classifier.1.bias" else tensor


def failed(found):
    return [check.name for check in found.checks if check.status == "failed"]


def test_intact_folder_passes(good_folder, scenes):
    found = verify_export(good_folder, CONTRACT)
    assert found.passed
    # The pipeline also gets a large photo of each decision; here all decisions are equal.
    assert [comparison.n for comparison in found.comparisons] == [len(scenes), len(scenes) + 1]
    assert found.comparisons[0].max_difference < 1e-6
    assert {check.status for check in found.checks if check.name != "torchvision backend"} == {"ok"}
    # transformers' pipeline resizes differently, so its scores agree only approximately.
    assert 0 < found.comparisons[1].max_difference < 0.01
    assert 0 < found.comparisons[1].max_logit_difference < 0.04


def test_wrongly_folded_head_changes_decisions(folder):
    change_weights(folder, raise_bias([-2.0, 2.0]))
    found = verify_export(folder, VerifyOptions())
    replay, pipeline = found.comparisons
    assert not found.passed
    assert replay.changed
    assert replay.changed[0].expected < FACTS.threshold <= replay.changed[0].found
    assert pipeline.is_right  # both load the same folder


def test_small_drift_fails_with_equal_decisions(folder):
    change_weights(folder, raise_bias([-3e-4, 3e-4]))
    replay = verify_export(folder, VerifyOptions()).comparisons[0]
    assert not replay.changed
    assert replay.max_difference > replay.limit
    assert not replay.is_right


def test_changed_replay_photo_is_an_error(folder):
    photo = folder / "replay/03.jpg"
    photo.write_bytes(photo.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"03\.jpg.*SHA-256"):
        verify_export(folder, VerifyOptions())
    photo.unlink()
    with pytest.raises(DataError, match=r"03\.jpg.*missing"):
        verify_export(folder, VerifyOptions())


@pytest.mark.parametrize(("moved", "passes"), [(0.02, True), (0.05, False)])
def test_pipeline_tie_is_near_the_threshold(folder, monkeypatch, moved, passes):
    """The scores 0.5 - moved and 0.5 + moved stand for two ways to resize one photo."""

    class OneSided:
        facts = type("Facts", (), {"threshold": 0.5})()
        preprocessing = None

        def probabilities(self, logits):
            return np.full(len(logits), 0.5 - moved)

    monkeypatch.setattr(verify_module.Detector, "load", lambda *_, **__: OneSided())
    monkeypatch.setattr(verify_module, "folded_logits", lambda _, photos: torch.zeros(len(photos), 2))
    monkeypatch.setattr(
        verify_module,
        "pipeline_outputs",
        lambda _, photos, __: (np.full(len(photos), 0.5 + moved), *np.zeros((2, len(photos)))),
    )
    found = verify_export(folder, VerifyOptions(photos=[folder / "replay"]))
    assert found.passed == passes
    (comparison,) = found.comparisons
    assert len(comparison.ties) + len(comparison.changed) == comparison.n == 13  # with the large photo
    assert bool(comparison.ties) == passes


def test_user_photos_are_compared_instead_of_the_replay(folder, tmp_path, scenes):
    (tmp_path / "own/deeper").mkdir(parents=True)
    for number, scene in enumerate(scenes[:3]):
        (tmp_path / "own" / ("deeper" if number else ".") / f"{number}.JPG").write_bytes(scene)
    shutil.rmtree(folder / "replay")  # not needed with own photos
    found = verify_export(folder, VerifyOptions(photos=[tmp_path / "own", tmp_path / "own/0.JPG"]))
    assert [(c.what, c.n) for c in found.comparisons] == [("Detector against transformers' pipeline, backend pil", 4)]
    with pytest.raises(DataError, match="nowhere"):
        verify_export(folder, VerifyOptions(photos=[tmp_path / "nowhere"]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"photo.*\.jpg"):
        verify_export(folder, VerifyOptions(photos=[tmp_path / "empty"]))


def _to_half(folder):
    change_weights(folder, lambda _, tensor: tensor.half() if tensor.is_floating_point() else tensor)


def _to_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _rename_weights(folder):
    path = folder / "model.safetensors"
    save_file({f"x.{name}": t for name, t in load_file(path).items()}, path, metadata={"format": "pt"})


def _set(file, **fields):
    return lambda folder: change_json(folder / file, **fields)


def _drop_field(file, name):
    def drop(folder):
        fields = json.loads((folder / file).read_text())
        del fields[name]
        (folder / file).write_text(json.dumps(fields))

    return drop


_CONFIG, _PROCESSOR, _NATIX = "config.json", "preprocessor_config.json", "model_card.json"
SWAPPED = {"id2label": {"0": "Roadwork", "1": "None"}, "label2id": {"Roadwork": 0, "None": 1}}


@pytest.mark.parametrize(
    ("clause", "found", "violate"),
    [
        ("model type", "dinov3_vit", _set(_CONFIG, model_type="dinov3_vit")),
        ("image processor", "BitImageProcessor", _set(_PROCESSOR, image_processor_type="BitImageProcessor")),
        ("image processor", "has no preprocessor_config", lambda folder: (folder / _PROCESSOR).unlink()),
        ("problem type", "single_label", _set(_CONFIG, problem_type="single_label_classification")),
        ("labels", '"0": "Roadwork"', _set(_CONFIG, **SWAPPED)),
        ("labels", "roadwork", _set(_CONFIG, id2label={"0": "None", "1": "roadwork"})),
        ("no custom code", "auto_map", _set(_CONFIG, auto_map={"AutoModel": "model.Network"})),
        ("no custom code", "model.py", lambda folder: (folder / "model.py").write_text("")),
        ("weights", "F16", _to_half),
        ("weights", "float16", _set(_CONFIG, dtype="float16")),
        ("weights", "pytorch_model.bin", _to_pickle),
        ("weights", "cannot be read", lambda folder: (folder / "model.safetensors").write_bytes(b"{}")),
        ("model_card.json", "has no model_card.json", lambda folder: (folder / _NATIX).unlink()),
        ("model_card.json", "submitted_by null", _drop_field(_NATIX, "submitted_by")),
        ("model_card.json", 'version "2"', _set(_NATIX, version="2")),
        ("model_card.json", "submission_time", _set(_NATIX, submission_time=time.time() + 3600)),
        ("antisymmetric head", "sum to at most", lambda folder: change_weights(folder, raise_bias([1.0, 1.0]))),
        ("softmax and sigmoid", "of 12 decisions", lambda folder: change_weights(folder, raise_bias([3.0, 3.0]))),
        ("outputs", "is missing", lambda folder: (folder / "replay/00.jpg").unlink()),
        ("outputs", "is missing", _rename_weights),
    ],
)
def test_contract_violation_fails_its_check(folder, clause, found, violate):
    violate(folder)
    result = verify_export(folder, CONTRACT)
    assert not result.passed
    named = next(check for check in result.checks if check.name == clause)
    assert named.status == "failed"
    assert found in named.found
    assert named.allowed
    assert named.fix
    # Only consequences of the violation may fail, too: missing outputs, or changed decisions.
    assert set(failed(result)) <= {clause, "outputs", "antisymmetric head", "softmax and sigmoid"}


def test_hotkey_placeholder_is_a_warning(folder):
    change_json(folder / _NATIX, submitted_by=HOTKEY_PLACEHOLDER)
    found = verify_export(folder, CONTRACT)
    assert found.passed
    assert [check.name for check in found.checks if check.status == "warning"] == ["model_card.json"]


def test_latency_above_nine_seconds_fails():
    assert check_latency(np.array([1.0, 8.9, 2.0]), "here").status == "ok"
    late = check_latency(np.array([1.0, 9.1, 2.0]), "here")
    assert late.status == "failed"
    assert "median 2.00 s, worst 9.10 s of 3 calls" in late.found


@pytest.mark.parametrize(("options", "message"), [({"consumer": "bitmind"}, "streetvision"), ({"run_rows": -1}, "0")])
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        VerifyOptions(**options)


def test_invalid_python_is_rejected(folder, tmp_path):
    with pytest.raises(ConfigError, match="make consumer"):
        verify_export(folder, VerifyOptions(consumer_python=tmp_path / "python"))
