"""`Detector`: predictions for all forms of photos."""

import numpy as np
import pytest
import torch
from fixtures.detectors import FACTS, SIZE, make_model_folder
from PIL import Image
from transformers import AutoModelForImageClassification

from roadwork import Detector, Prediction
from roadwork.core.errors import DataError
from roadwork.data.images import read_pixels, to_network_input
from roadwork.models.processor import IMAGENET_STATISTICS


@pytest.fixture
def photo(demo_root):
    return next((demo_root / "images").rglob("*.jpg"))


def test_probability_equals_calibration_before_folding(model_folder, photo):
    network = AutoModelForImageClassification.from_pretrained(model_folder).eval()
    pixels = to_network_input(read_pixels(photo.read_bytes(), SIZE)[None], IMAGENET_STATISTICS)
    with torch.inference_mode():
        folded = network(pixel_values=pixels).logits.softmax(1)[0, 1].item()
    odds = folded / (1 - folded) * FACTS.threshold / (1 - FACTS.threshold)
    prediction = Detector.load(model_folder)(photo)
    assert prediction.probability == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert prediction.label == ("Roadwork" if folded >= 0.5 else "None")


def test_every_input_form_gives_the_same_prediction(model_folder, photo, tmp_path):
    detector = Detector.load(model_folder)
    lossless = tmp_path / "photo.png"
    Image.open(photo).save(lossless)
    image = Image.open(lossless)
    forms = [lossless, str(lossless), lossless.read_bytes(), image, np.asarray(image)]
    answers = detector.predict_many(forms)
    assert len(set(answers)) == 1
    assert detector.predict_many([]) == []


def test_detector_abstains_only_in_the_band(model_folder):
    detector = Detector.load(model_folder)
    answers = detector.decide(np.array([0.43, 0.44, 0.449, 0.45, 0.46, 0.47]))
    assert [answer.abstain for answer in answers] == [False, True, True, True, True, False]
    assert [answer.label for answer in answers] == ["None", "None", "None", "Roadwork", "Roadwork", "Roadwork"]
    assert isinstance(answers[0], Prediction)


@pytest.mark.parametrize(
    ("photo", "message"),
    [
        (b"no image", "JPEG"),
        ("absent.jpg", r"absent\.jpg"),
        (np.zeros((4, 4)), "uint8"),
        (7, r"\bint\b"),
    ],
)
def test_non_photos_are_rejected(model_folder, photo, message):
    with pytest.raises(DataError, match=message):
        Detector.load(model_folder)(photo)


def test_other_folders_are_rejected(tmp_path, model_folder):
    with pytest.raises(DataError, match="roadwork export"):
        Detector.load(tmp_path / "absent")
    with pytest.raises(DataError, match=r"config\.json"):
        Detector.load(tmp_path)
    folder = make_model_folder(tmp_path / "model")
    processor = folder / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace('"resample": 3', '"resample": 2'))
    with pytest.raises(DataError, match="resample"):
        Detector.load(folder)
