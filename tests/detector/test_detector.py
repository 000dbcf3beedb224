"""`Detector`: predictions for all forms of photos."""

import numpy as np
import pytest
import torch
from fixtures.detectors import FACTS, SIZE, make_model_folder
from PIL import Image, ImageCms
from transformers import AutoModelForImageClassification

from roadwork import Detector, Prediction
from roadwork.core.errors import ConfigError, DataError
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


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "I;16")


def in_mode(image, mode):
    """The same picture in another mode, and what a viewer shows of it."""
    if mode in {"I", "I;16"}:
        grey = np.asarray(image.convert("L"))
        return Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.int32) * 257), image.convert("L")
    if mode == "LAB":
        lab = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        return lab, image
    other = image
    for step in {"La": ("LA", "La"), "PA": ("P", "PA"), "RGBa": ("RGBA", "RGBa")}.get(mode, (mode,)):
        other = other.convert(step)
    if mode in {"1", "P", "PA", "HSV", "YCbCr"}:
        return other, other
    return other, image.convert("L") if mode in {"L", "LA", "La"} else image


@pytest.mark.parametrize("mode", MODES)
def test_pil_images_of_every_mode(model_folder, photo, mode):
    detector = Detector.load(model_folder)
    with Image.open(photo) as image:
        given, shown = in_mode(image.convert("RGB"), mode)
    assert given.mode == mode
    expected = detector.read(np.asarray(shown.convert("RGB")))
    difference = (detector.read(given).int() - expected.int()).abs()
    assert difference.max() <= (8 if mode == "LAB" else 2)


def test_pil_image_of_floats_is_refused(model_folder):
    with pytest.raises(DataError, match="float"):
        Detector.load(model_folder).read(Image.new("F", (8, 8)))


@pytest.mark.parametrize("fmt", ["JPEG", "HEIF", "AVIF", "TIFF"])
def test_opened_images_are_turned_upright_once(model_folder, tmp_path, fmt):
    detector = Detector.load(model_folder)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo"
    Image.fromarray(np.arange(48 * 32, dtype=np.uint8).reshape(32, 48)).convert("RGB").save(
        path, fmt, exif=exif.tobytes()
    )
    with Image.open(path) as image:
        difference = detector.read(image).int() - detector.read(path).int()
    assert difference.abs().max() <= 2


def test_channel_order_of_arrays(model_folder, photo):
    detector = Detector.load(model_folder)
    with Image.open(photo) as image:
        rgb = np.asarray(image.convert("RGB"))
    as_opencv = rgb[..., ::-1]
    assert detector(as_opencv, channel_order="bgr") == detector(rgb)
    assert detector.predict_many([as_opencv], channel_order="bgr") == [detector(rgb)]
    assert not torch.equal(detector.read(as_opencv), detector.read(rgb))
    assert torch.equal(detector.read(photo, channel_order="bgr"), detector.read(photo))
    with pytest.raises(ConfigError, match=r"'BGR'.*rgb, bgr"):
        detector(rgb, channel_order="BGR")


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 4), (3, 8, 8)])
def test_arrays_that_are_not_three_channels_are_refused(model_folder, shape):
    with pytest.raises(DataError, match="channel_order"):
        Detector.load(model_folder).read(np.zeros(shape, dtype=np.uint8))


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
