"""Exported folders in the consumer's own environment: transformers 4.45.2, in `.venv-consumer` (`make consumer`)."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from fixtures.config import CHECKOUT
from fixtures.consumer import find_consumer_python
from fixtures.detectors import SIZE, TINY_NETWORKS, make_model_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import expit, logit

from roadwork import Detector
from roadwork.data.images import read_pixels, to_network_input
from roadwork.detector.folding import fold_calibration, last_linear
from roadwork.detector.format import ExportFacts
from roadwork.export.consumer import (
    CONSUMER_VERSIONS,
    STREETVISION_MODEL_TYPES,
    check_environment,
    find_differences,
    run_consumer,
)
from roadwork.metrics.decision import unfold_score
from roadwork.models.build import build_model
from roadwork.models.processor import IMAGENET_STATISTICS
from roadwork.settings import ModelSettings

FAMILIES = sorted(TINY_NETWORKS)
THRESHOLD = 0.35
N_PHOTOS = 16
SINGLE_LABEL = {"problem_type": "single_label_classification"}
# The fast processor of 4.45.2 resizes differently from Pillow, by a grey level in some pixels. The temperatures here
# amplify the small differences of an untrained network, and these differences, too.
CLOSE = 0.01
TIE = 1e-3


def test_missing_environment_is_reported():
    missing = {"ROADWORK_CONSUMER_PYTHON": "/nowhere/python"}
    with pytest.raises(pytest.skip.Exception, match="make consumer"):
        find_consumer_python(missing)
    with pytest.raises(pytest.fail.Exception, match="make consumer"):
        find_consumer_python(missing | {"CI": "1"})


def make_photos(folder):
    """Photos whose colours and patterns differ enough for an untrained network to decide both ways."""
    rng = np.random.default_rng(7)
    photos = []
    for number in range(N_PHOTOS):
        coarse = rng.integers(0, 256, (*rng.integers(2, 7, 2), 3), dtype=np.uint8)
        size = tuple(int(side) for side in rng.integers(60, 120, 2))
        photos.append(folder / f"{number:02d}.jpg")
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(photos[-1], quality=90)
    return photos


def make_network(family, photos):
    """A network with decisions of both labels at THRESHOLD, its temperature, and its calibrated probabilities."""
    torch.manual_seed(3)
    network = build_model(ModelSettings(name=family, config=TINY_NETWORKS[family]), SIZE).eval()
    pixels = torch.stack([read_pixels(photo.read_bytes(), SIZE) for photo in photos])
    with torch.no_grad():
        logits = network(pixel_values=to_network_input(pixels, IMAGENET_STATISTICS)).logits.double().numpy()
        differences = logits[:, 1] - logits[:, 0]
        temperature = float(differences.std())
        between = np.sort(differences)[N_PHOTOS // 4 : -N_PHOTOS // 4]
        gap = np.diff(between).argmax()
        shift = temperature * logit(THRESHOLD) - between[gap : gap + 2].mean()
        last_linear(network).bias[1] += shift
    return network, temperature, expit((differences + shift) / temperature)


def save(folder, family, network, temperature):
    make_model_folder(folder, family, ExportFacts(temperature=temperature, threshold=THRESHOLD))
    config = (folder / "config.json").read_text()
    fold_calibration(network, temperature, THRESHOLD)
    network.save_pretrained(folder)
    (folder / "config.json").write_text(config)
    return folder


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def raise_both_logits(weights):
    """Keeps the softmax, but makes the logits asymmetric."""
    bias = next(name for name in weights if name.startswith("classifier") and name.endswith("bias"))
    return weights | {bias: weights[bias] + 2}


def change_json(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """The consumer's outputs by folder name, and ours, from one process, which takes seconds to start."""
    python = find_consumer_python(os.environ)
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("consumer")
    photos = make_photos(root)
    expected, folders = {}, {}
    for family in FAMILIES:
        network, temperature, expected[family] = make_network(family, photos)
        for name in (family, f"{family}-single-label"):
            folders[name] = save(root / name, family, network, temperature)
            network, _, _ = make_network(family, photos)  # folding changed it
        change_json(folders[f"{family}-single-label"] / "config.json", **SINGLE_LABEL)
    for name in ("lopsided", "lopsided-single-label", "bit", "dinov3", "renamed"):
        network, temperature, _ = make_network("vit", photos)
        folders[name] = save(root / name, "vit", network, temperature)
    change_weights(folders["lopsided"], raise_both_logits)
    change_weights(folders["lopsided-single-label"], raise_both_logits)
    change_json(folders["lopsided-single-label"] / "config.json", **SINGLE_LABEL)
    change_json(folders["bit"] / "preprocessor_config.json", image_processor_type="BitImageProcessor")
    change_json(folders["dinov3"] / "config.json", model_type="dinov3_vit")
    change_weights(
        folders["renamed"],
        lambda weights: {name.replace("classifier.weight", "score.weight"): w for name, w in weights.items()},
    )
    output = run_consumer(python, [(folder, photos) for folder in folders.values()])
    ours = {
        family: np.array([p.probability for p in Detector.load(folders[family], "cpu").predict_many(photos)])
        for family in FAMILIES
    }
    return dict(zip(folders, output, strict=True)), ours, expected


def count_changed(output, ours):
    near = np.abs(ours - THRESHOLD) <= TIE
    return int((((output.scores > 0.5) != (ours >= THRESHOLD)) & ~near).sum())


@pytest.mark.parametrize("family", FAMILIES)
def test_consumer_decides_as_the_detector(outputs, family):
    output, ours, expected = outputs[0][family], outputs[1][family], outputs[2][family]
    assert output.error is None
    assert (output.processor, output.misfits, output.warnings) == ("ViTImageProcessorFast", [], [])
    # `ours` is from the network before folding; it has decisions of both labels.
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert 3 <= (ours >= THRESHOLD).sum() <= N_PHOTOS - 3
    assert count_changed(output, ours) == 0
    np.testing.assert_allclose(unfold_score(output.scores, THRESHOLD), ours, atol=CLOSE)


def test_environment_has_the_locked_versions(outputs):
    differences = find_differences(outputs[0]["vit"].versions)
    # A machine with only a newer Python uses that.
    assert [difference for difference in differences if not difference.startswith("python ")] == []


def test_constraints_are_the_locked_versions():
    pinned = [f"{name}=={version}" for name, version in CONSUMER_VERSIONS.items()]
    lines = (CHECKOUT / "constraints-consumer.txt").read_text().splitlines()
    assert [line for line in pinned if line not in lines] == []


def test_other_versions_are_a_warning(outputs):
    versions = CONSUMER_VERSIONS | {"python": "3.10.14", "torch": "2.6.0+cu124"}
    good = replace(outputs[0]["vit"], versions=versions)
    assert check_environment(good).status == "ok"
    check = check_environment(replace(good, versions=versions | {"torch": "2.13.0", "python": "3.13.0"}))
    assert check.status == "warning"
    assert "torch 2.13.0 (locked: 2.6.0); python 3.13.0 (locked: 3.10 or 3.11)" in check.found


@pytest.mark.parametrize("family", FAMILIES)
def test_old_sigmoid_changes_scores_but_not_decisions(outputs, family):
    plain, forced, ours = outputs[0][family], outputs[0][f"{family}-single-label"], outputs[1][family]
    np.testing.assert_allclose(logit(forced.scores), logit(plain.scores) / 2, atol=1e-4)
    assert count_changed(forced, ours) == 0


def test_old_sigmoid_changes_decisions_of_a_plain_head(outputs):
    output, ours = outputs[0], outputs[1]["vit"]
    assert count_changed(output["lopsided"], ours) == 0
    assert count_changed(output["lopsided-single-label"], ours) > 0


@pytest.mark.parametrize(
    ("name", "found"),
    [("bit", "Unrecognized image processor"), ("dinov3", "dinov3_vit"), ("renamed", "classifier.weight")],
)
def test_consumer_reports_what_it_cannot_load(outputs, name, found):
    check = check_environment(outputs[0][name])
    assert check.status == "failed"
    assert found in check.found


def test_consumer_supports_the_contract_model_types():
    """The mapping is read from the installed transformers."""
    python = find_consumer_python(os.environ)
    mapping = next(python.parents[1].glob("lib/python*/site-packages/transformers/models/auto/modeling_auto.py"))
    text = mapping.read_text()
    start = text.index("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES = ")
    known = text[start : text.index("\n)\n", start)]
    assert [name for name in STREETVISION_MODEL_TYPES if f'"{name}"' not in known] == []
    assert [name for name in ("dinov3_vit", "siglip2", "timm_wrapper") if f'"{name}"' in known] == []
