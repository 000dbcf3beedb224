"""Preflight checks of the environment."""

import pytest
import torch

from roadwork.preflight.checks import Preflight


@pytest.mark.parametrize(("devices", "used"), [("1", "1 of 4"), ("2", "2 of 4"), ("auto", "4 of 4")])
def test_environment_names_the_gpus_that_training_uses(tiny_config, monkeypatch, devices, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 33, 1 << 34))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    preflight = Preflight(tiny_config(f"training.devices={devices}", "training.accelerator=gpu"))
    torch_check = next(check for check in preflight._environment() if check.name == "torch")
    assert f"{used} GPUs" in torch_check.found
