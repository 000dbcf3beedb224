import json

import pytest

from roadwork.core.errors import ConfigError
from roadwork.models.processor import IMAGENET_STATISTICS, UNNORMALISED, ImageStatistics, image_statistics
from roadwork.settings import ModelSettings


def settings(folder, processor=None):
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return ModelSettings(name=str(folder), pretrained=True)


def test_pretrained_model_has_its_own_statistics(tmp_path):
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.1, 0.2, 1]}
    assert image_statistics(settings(tmp_path, processor)) == ImageStatistics((0.5, 0.4, 0.3), (0.1, 0.2, 1.0))


def test_random_weights_use_imagenet_statistics(tmp_path):
    model = settings(tmp_path, {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]})
    model.pretrained = False
    assert image_statistics(model) == IMAGENET_STATISTICS


def test_missing_statistics_warn(tmp_path, caplog):
    assert image_statistics(settings(tmp_path)) == IMAGENET_STATISTICS
    assert "preprocessor_config.json" in caplog.text


def test_model_without_normalisation(tmp_path):
    assert image_statistics(settings(tmp_path, {"do_normalize": False})) == UNNORMALISED


def test_statistics_need_three_channels(tmp_path):
    with pytest.raises(ConfigError, match=r"image_mean.*\[0\.5\].*three"):
        image_statistics(settings(tmp_path, {"image_mean": [0.5], "image_std": [0.5]}))


def test_unknown_name_is_rejected():
    with pytest.raises(ConfigError, match="neither a folder"):
        image_statistics(ModelSettings(name="./no/such/folder", pretrained=True))
