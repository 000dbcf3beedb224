"""Folds temperature and threshold into the head, so that all consumers make the same decisions.

`roadwork.metrics.decision` has the algebra. Softmax and sigmoid give different scores, but the same decision.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from roadwork.calibration.data import read_rows
from roadwork.calibration.label_shift import ScoreHistogram
from roadwork.core.errors import ConfigError, DataError
from roadwork.detector.format import ExportFacts
from roadwork.metrics.decision import MARGIN_LIMIT, fold
from roadwork.metrics.predictions import read_predictions
from roadwork.models.head import find_head
from roadwork.runs.run import Run


@torch.no_grad()
def fold_calibration(network: nn.Module, temperature: float, threshold: float) -> None:
    """Changes the head of `network` in place: its logits become those of `roadwork.metrics.decision.fold`.

    Args:
        network: an image classifier with two classes and merged adapters, or an ensemble of them.
        temperature: T, above 0; the logits are divided by it.
        threshold: t, between 0 and 1; the decision is Roadwork from this calibrated probability on.

    Raises:
        ConfigError: temperature or threshold is out of range, or the head does not end in a linear layer of 2 outputs.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"The temperature is {temperature}; it must be a number above 0.")
    if not 0 < threshold < 1:
        raise ConfigError(f"The threshold is {threshold}; it must be between 0 and 1, both excluded.")
    # Folding is linear in the logits, so folding every member is the same as folding their mean.
    members = getattr(network, "members", None)
    for member in members if isinstance(members, nn.ModuleList) else (network,):
        _fold_layer(last_linear(member), temperature, threshold)


def _fold_layer(layer: nn.Linear, temperature: float, threshold: float) -> None:
    layer.weight.copy_(fold(layer.weight.double().T, temperature).T)  # the threshold moves the bias alone
    layer.bias.copy_(fold(layer.bias.double(), temperature, threshold))


def last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that returns the two logits.

    Raises:
        ConfigError: the head does not end in such a layer.
    """
    name = find_head(network)
    linear = [module for module in getattr(network, name).modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].out_features != 2 or linear[-1].bias is None:
        raise ConfigError(
            f"The head {name} of {type(network).__name__} does not end in a linear layer with two outputs and a bias, "
            "so temperature and threshold cannot be folded into it."
        )
    return linear[-1]


def read_calibration(run: Run) -> ExportFacts | None:
    """Temperature, threshold, prior, abstention band and scores of a run; None if it is not calibrated.

    Raises:
        DataError: calibration.json is damaged, or was fitted on other predictions than those of the run.
    """
    content = run.read_calibration()
    if content is None:
        return None
    path = run.calibration_file
    try:
        facts = ExportFacts(
            temperature=float(content["temperature"]),
            threshold=float(content["threshold"]),
            prior=float(content["prior"]),
            abstain_low=content["abstain"]["low"],
            abstain_high=content["abstain"]["high"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be used ({type(error).__name__}: {error}). Write it again with `roadwork calibrate RUN`."
        ) from None
    rows, sha256 = read_rows(read_predictions(run.predictions_file))
    if sha256 != content.get("sha256_of_rows"):
        raise DataError(
            f"{path} was fitted on other predictions than those in {run.predictions_file.name}, so its temperature and "
            "threshold may not fit this network. Calibrate again with `roadwork calibrate RUN`, or remove "
            "calibration.json to export without calibration."
        )
    log_odds = np.clip(rows.margins / facts.temperature, -MARGIN_LIMIT, MARGIN_LIMIT)
    threshold = math.log(facts.threshold / (1 - facts.threshold))
    return replace(facts, scores=ScoreHistogram.fit(rows.labels, log_odds, rows.groups, threshold))
