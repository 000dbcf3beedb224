import math

import numpy as np
import pytest
from omegaconf import OmegaConf

from roadwork.core.errors import ConfigError
from roadwork.data.samplers.weights import parse_brackets
from roadwork.settings import GpsSamplingSettings

DEFAULT = GpsSamplingSettings().weight_brackets


def test_edges_belong_to_the_bracket_they_open():
    brackets = parse_brackets(DEFAULT)
    distances = np.array([0, 49.999, 50, np.nextafter(200, 0), 200, 500, 20_000, np.nan])
    assert brackets.weights.tolist() == [5, 2.5, 1, 0.3]
    assert brackets.index_of(distances).tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    assert brackets.names == ("0-50 km", "50-200 km", "200-500 km", "500+ km")


@pytest.mark.parametrize("text", ["inf", ".inf"])
def test_inf_from_yaml(text):
    settings = OmegaConf.create(f"brackets: [[0, 50, 5.0], [50, {text}, 0.3]]")
    brackets = parse_brackets(settings.brackets)
    assert brackets.edges_km.tolist() == [0, 50, math.inf]
    assert brackets.weights.tolist() == [5, 0.3]


def test_bracket_order_is_free_and_one_is_enough():
    assert parse_brackets([[10, math.inf, 1], [0, 10, 2]]).weights.tolist() == [2, 1]
    assert parse_brackets([[0, math.inf, 1]]).index_of(np.array([0, 1e4])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("brackets", "message"),
    [
        ([], "empty"),
        ([[0, 50, 5], [60, "inf", 1]], r"gap.*\[0, 50, 5\].*\[60, inf, 1\]"),
        ([[0, 50, 5], [40, "inf", 1]], r"overlap.*\[0, 50, 5\].*\[40, inf, 1\]"),
        ([[0, "inf", 5], [50, "inf", 1]], "overlap"),
        ([[0, 50, 5], [0, 50, 5], [50, "inf", 1]], "overlap"),
        ([[10, "inf", 1]], r"\[10, inf, 1\]"),
        ([[0, 50, 1]], r"\[0, 50, 1\]"),
        ([[-5, 50, 1], [50, "inf", 1]], r"\[-5, 50, 1\].*ascend"),
        ([[50, 0, 1]], "ascend"),
        ([[0, "nan", 1]], "ascend"),
        ([[0, "inf", -1]], r"\[0, 'inf', -1\].*weight"),
        ([[0, "inf", "nan"]], r"\[0, 'inf', 'nan'\].*weight"),
        ([[0, "inf", "inf"]], r"\[0, 'inf', 'inf'\].*weight"),
        ([[0, "inf", 0]], r"weights.*\b0\b"),
        ([[0, 50], [50, "inf", 1]], r"\[0, 50\].*three numbers"),
        ([[0, "far", 1]], r"\[0, 'far', 1\].*three numbers"),
        ([5, 3], r"\b5\b.*three numbers"),
    ],
)
def test_unusable_brackets_are_named(brackets, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_brackets(brackets)
    assert "data.gps_sampling.weight_brackets" in str(caught.value)
