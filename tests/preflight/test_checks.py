"""Preflight checks of the environment."""

import pytest
import torch

from roadwork.preflight.checks import BLOCKER, Preflight


@pytest.mark.parametrize(("devices", "used"), [("1", "1 of 4"), ("2", "2 of 4"), ("auto", "4 of 4")])
def test_environment_names_the_gpus_that_training_uses(tiny_config, monkeypatch, devices, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 33, 1 << 34))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Test GPU")
    preflight = Preflight(tiny_config(f"training.devices={devices}", "training.accelerator=gpu"))
    torch_check = next(check for check in preflight._environment() if check.name == "torch")
    assert f"{used} GPUs" in torch_check.found


@pytest.mark.parametrize(
    "override",
    [
        "data.gps_sampling.target=no-such-file.csv",
        "data.gps_sampling.weight_brackets=[[0.0, 50.0, -1.0]]",
    ],
)
def test_an_error_of_the_sampler_is_reported_once(tiny_config, override):
    checks = list(Preflight(tiny_config(override, "data.gps_sampling.enabled=true")).run())
    blockers = [check for check in checks if check.status == BLOCKER]
    assert [check.name for check in blockers] == ["GPS sampling"]
    assert override.split("=")[0] in blockers[0].found
