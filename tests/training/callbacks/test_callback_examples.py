"""The example in each callback's docstring runs and prints what it shows."""

import doctest
import importlib

import pytest
import torch
from peft import get_peft_model
from transformers import ViTConfig, ViTForImageClassification

from roadwork.settings import TrainingSettings
from roadwork.training.lora.adalora_config import create_adalora_config

MODULES = (
    "adalora_callback", "ema_callback", "interruption_callback", "mcc_callback", "metrics_callbacks",
    "training_monitor",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("name", MODULES)
def test_docstring_example_runs(name):
    module = importlib.import_module(f"roadwork.training.callbacks.{name}")
    network = ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    )
    names = {
        "create_adalora_config": create_adalora_config, "get_peft_model": get_peft_model, "network": network,
        "torch": torch, "TrainingSettings": TrainingSettings,
    }  # fmt: skip
    result = doctest.testmod(module, extraglobs=names)
    assert result.attempted > 0
    assert result.failed == 0
