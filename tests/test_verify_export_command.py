"""`roadwork verify-export`: output and exit codes."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import roadwork.cli.export  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.core.errors import ConfigError
from roadwork.export import verify as verify_module
from roadwork.export.export import export_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_run):
    out = tmp_path_factory.mktemp("verify-command") / "model"
    export_run(tiny_run, out, format="hf")
    return out


@pytest.fixture(autouse=True)
def _small_large_photos(monkeypatch):
    monkeypatch.setattr(verify_module, "write_large_photo", lambda photo, path: Image.open(photo).save(path))


def verify(*arguments):
    return CliRunner().invoke(app, ["verify-export", *map(str, arguments)])


def test_new_export_passes_all_checks(exported, tiny_run):
    result = verify(exported, "--run", tiny_run, "--limit", 10, "--consumer", "streetvision")
    assert result.exit_code == 0, result.output
    assert "✅ Detector against the run, on the folder's own photos: 0 of 32 decisions changed" in result.output
    assert "✅ Detector against the run's predictions: 0 of 10 decisions changed" in result.output
    assert "✅ problem type: null" in result.output
    assert "⚠️  model_card.json" in result.output
    assert "❌" not in result.output
    assert "Failed: 0." in result.output


def test_broken_folder_exits_with_1_and_lists_the_photos(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.weight"] = weights["classifier.1.weight"].flip(0)
    weights["classifier.1.bias"] = weights["classifier.1.bias"].flip(0) + torch.tensor([0.1, -0.1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    result = verify(folder)
    assert result.exit_code == 1
    assert "❌ Detector against the run, on the folder's own photos" in result.output
    assert "changed: 00.jpg: " in result.output or "changed: 01.jpg: " in result.output
    assert "do not deploy" in result.output
    assert "Failed: 1." in result.output
    listed = json.loads(verify(folder, "--json").output)
    assert not listed["passed"]
    assert listed["comparisons"][0]["changed"][0].keys() == {"photo", "expected", "found"}


def test_violation_shows_allowed_values_and_the_fix(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    result = verify(folder, "--consumer", "streetvision")
    assert result.exit_code == 1
    place = result.output.index('❌ problem type: "single_label_classification"')
    assert "allowed: null" in result.output[place:]
    assert '→ set "problem_type": null' in result.output[place:]


def test_unknown_consumer_is_wrong_usage(exported):
    result = verify(exported, "--consumer", "bitmind")
    assert isinstance(result.exception, ConfigError)  # main() turns it into exit code 2
    assert "streetvision" in str(result.exception)
