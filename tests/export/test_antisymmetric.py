"""Softmax and sigmoid of the folded head give the calibrated decision."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from torch import nn

from roadwork.core.errors import ConfigError
from roadwork.detector.folding import fold_calibration
from roadwork.metrics.decision import unfold
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 8}
FAMILIES = {
    "vit": TINY,
    "dinov2": {key: value for key, value in TINY.items() if key != "intermediate_size"},
    "siglip": {"vision_config": TINY},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
}


class Network(nn.Module):
    def __init__(self, n_features=6):
        super().__init__()
        self.classifier = nn.Linear(n_features, 2)

    def forward(self, features):
        return self.classifier(features)


@given(
    temperature=st.floats(0.05, 20),
    threshold=st.floats(0.001, 0.999),
    seed=st.integers(0, 1000),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_softmax_and_sigmoid_decide_as_calibrated(temperature, threshold, seed, scale):
    torch.manual_seed(seed)
    network, features = Network().double(), scale * torch.randn(64, 6, dtype=torch.float64)
    with torch.no_grad():
        none, roadwork = network(features).T
        calibrated = torch.sigmoid((roadwork - none) / temperature)
        fold_calibration(network, temperature, threshold)
        folded = network(features)
    clear = (calibrated - threshold).abs() > 1e-9
    decided = calibrated > threshold
    assert torch.equal(folded.softmax(dim=1)[clear, 1] > 0.5, decided[clear])
    assert torch.equal(folded.sigmoid()[clear, 1] > 0.5, decided[clear])
    torch.testing.assert_close(folded[:, 0], -folded[:, 1])


@given(temperature=st.floats(0.2, 5), threshold=st.floats(0.01, 0.99), difference=st.floats(-60, 60))
def test_unfolding_restores_the_probability(temperature, threshold, difference):
    d = difference / temperature - np.log(threshold / (1 - threshold))
    [found] = unfold(torch.tensor([[-d / 2, d / 2]], dtype=torch.float64), threshold)
    assert float(found) == pytest.approx(expit(difference / temperature), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_works_for_every_family(family):
    torch.manual_seed(0)
    settings = ModelSettings(name=family, config=FAMILIES[family] | {"model_type": family})
    network = build_model(settings, 32).eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        none, roadwork = network(pixel_values=images).logits.T
        fold_calibration(network, 1.7, 0.3)
        folded = network(pixel_values=images).logits
    expected = (roadwork - none) / 1.7 - np.log(0.3 / 0.7)
    torch.testing.assert_close(folded[:, 1] - folded[:, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("temperature", "threshold"), [(0, 0.5), (-1, 0.5), (float("inf"), 0.5), (1, 0), (1, 1)])
def test_invalid_temperature_or_threshold_is_rejected(temperature, threshold):
    with pytest.raises(ConfigError, match="must be"):
        fold_calibration(Network(), temperature, threshold)


def test_unsupported_head_is_rejected():
    network = Network()
    network.classifier = nn.Sequential(nn.Linear(6, 3), nn.ReLU())
    with pytest.raises(ConfigError, match="linear layer"):
        fold_calibration(network, 1, 0.5)
