import json

import pytest

from roadwork.core.errors import ConfigError
from roadwork.models.processor import IMAGENET_STATISTICS, UNNORMALISED, ImageStatistics, image_statistics
from roadwork.settings import ModelSettings


def settings(folder, processor=None):
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return ModelSettings(name=str(folder), pretrained=True)


def test_a_pretrained_models_own_statistics(tmp_path):
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 1]}
    assert image_statistics(settings(tmp_path, processor)) == ImageStatistics((0.5, 0.4, 0.3), (0.1, 0.2, 1.0))


def test_random_weights_use_imagenets(tmp_path):
    model = settings(tmp_path, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    model.pretrained = False
    assert image_statistics(model) == IMAGENET_STATISTICS


def test_a_folder_without_statistics_is_warned_about(tmp_path, caplog):
    assert image_statistics(settings(tmp_path)) == IMAGENET_STATISTICS
    assert "preprocessor_config.json" in caplog.text


def test_a_model_that_does_not_normalise(tmp_path):
    assert image_statistics(settings(tmp_path, {"do_normalize": False})) == UNNORMALISED


def test_statistics_of_another_number_of_channels(tmp_path):
    with pytest.raises(ConfigError, match=r"image_mean.*\[0\.5\].*three"):
        image_statistics(settings(tmp_path, {"image_mean": [0.5], "image_std": [0.5]}))


def test_a_name_that_cannot_be_found():
    with pytest.raises(ConfigError, match="neither a folder"):
        image_statistics(ModelSettings(name="./no/such/folder", pretrained=True))
