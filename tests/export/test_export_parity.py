import numpy as np
import pytest
import torch

from roadwork.core.errors import WiringError
from roadwork.export.parity import compare_logits, compare_probabilities

LOGITS = torch.tensor([[-0.5, 0.5], [300.0, -300.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("moved", "temperature", "passes"),
    [
        ([[9e-5, 0], [0, 0]], 1.0, True),
        ([[1.1e-4, 0], [0, 0]], 1.0, False),
        ([[1.1e-4, 0], [0, 0]], 2.0, False),  # a temperature above 1 allows no more
        ([[1.1e-4, 0], [0, 0]], 0.5, True),  # the difference was half as large before folding
        ([[0, 0], [0.02, 0]], 1.0, True),
        ([[float("nan"), 0], [0, 0]], 1.0, False),
    ],
)
def test_logits_may_differ_only_by_rounding(moved, temperature, passes):
    other = LOGITS + torch.tensor(moved)
    if passes:
        assert compare_logits("it", other, LOGITS, temperature).difference < 1e-4
    else:
        with pytest.raises(WiringError, match="it: logits"):
            compare_logits("it", other, LOGITS, temperature)


@pytest.mark.parametrize(
    ("own", "other", "passes"),
    [
        (0.3, 0.30005, True),
        (0.3, 0.3002, False),
        (0.400005, 0.399995, True),  # a tie
        (0.40003, 0.39998, False),  # within the limit, but the decision changes and is not a tie
        (0.3, float("nan"), False),
    ],
)
def test_only_ties_may_change_decisions(own, other, passes):
    expected, probabilities = np.array([0.9, own]), np.array([0.9, other])
    if passes:
        compare_probabilities("it", probabilities, expected, 0.4)
    else:
        with pytest.raises(WiringError, match="it: probabilities"):
            compare_probabilities("it", probabilities, expected, 0.4)
