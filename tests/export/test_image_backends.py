"""`verify-export` with both image backends of transformers 5: Pillow and torchvision."""

import json
import os
import subprocess
import sys

import pytest
from fixtures import with_torchvision
from fixtures.consumer import find_torchvision
from fixtures.detectors import make_model_folder
from PIL import Image

from roadwork.export import verify as verify_module
from roadwork.export.verify import VerifyOptions, verify_export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("backends") / "model")


@pytest.fixture(scope="module")
def photos(demo_root):
    return sorted((demo_root / "images").rglob("*.jpg"))[:2]


@pytest.fixture
def _small_large_photos(monkeypatch):
    monkeypatch.setattr(verify_module, "write_large_photo", lambda photo, path: Image.open(photo).save(path))


def test_missing_torchvision_is_reported():
    with pytest.raises(pytest.fail.Exception, match="make consumer"):
        find_torchvision({"ROADWORK_TORCHVISION": "/nowhere", "CI": "1"})


def test_both_backends_decide_as_the_detector(folder, photos):
    torchvision = find_torchvision(os.environ)
    command = [sys.executable, with_torchvision.__file__, str(torchvision), "verify-export", str(folder)]
    done = subprocess.run([*command, *map(str, photos), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pil, by_torchvision = found["comparisons"]
    assert [row["what"].rpartition(" ")[2] for row in (pil, by_torchvision)] == ["pil", "torchvision"]
    assert pil["n"] == by_torchvision["n"] > len(photos)  # with photos of 12 megapixels
    assert pil["changed"] == by_torchvision["changed"] == found["checks"] == []
    # Another resize gives other logits, so the second backend has really run.
    assert pil["max_logit_difference"] != by_torchvision["max_logit_difference"]
    assert max(pil["max_difference"], by_torchvision["max_difference"]) < 0.01


@pytest.mark.usefixtures("_small_large_photos")
def test_backend_that_decides_otherwise_fails(folder, photos, monkeypatch):
    outputs = verify_module.pipeline_outputs
    backends = []

    def invert_torchvision(folder, photos, backend):
        backends.append(backend)
        scores, odds, seconds = outputs(folder, photos, "pil")
        return (1 - scores, -odds, seconds) if backend == "torchvision" else (scores, odds, seconds)

    monkeypatch.setattr(verify_module, "is_torchvision_available", lambda: True)
    monkeypatch.setattr(verify_module, "pipeline_outputs", invert_torchvision)
    monkeypatch.setattr(verify_module, "PIPELINE_TIE", 0.0)
    found = verify_export(folder, VerifyOptions(photos=photos))
    assert backends == ["pil", "torchvision"]
    assert [comparison.is_right for comparison in found.comparisons] == [True, False]
    assert not found.passed


@pytest.mark.usefixtures("_small_large_photos")
def test_missing_backend_is_skipped_not_passed(folder, photos, monkeypatch):
    monkeypatch.setattr(verify_module, "is_torchvision_available", lambda: False)
    found = verify_export(folder, VerifyOptions(photos=photos))
    assert len(found.comparisons) == 1
    assert [(check.name, check.status) for check in found.checks] == [("torchvision backend", "skipped")]
