"""`roadwork models` on the terminal and as JSON."""

import json

import pytest
from typer.testing import CliRunner

import roadwork.cli.tools
from roadwork.cli.app import app
from roadwork.config import load_config, to_settings
from roadwork.preflight.catalogue import Backbone, BackboneCost

ROWS = [
    Backbone(
        *("dinov3_convnext_tiny", "facebook/dinov3-convnext-tiny-pretrain-lvd1689m", True, "dinov3_convnext"),
        BackboneCost(27_800_000, 1_234, 8_900_000_000, 6 * 2**30, 2**29),
        *("DINOv3 License (gated)", "not here", True, None),
    ),
    Backbone("odd", "some[one]/odd", False, None, None, "unknown", "not here", None, "it has no [head] at all"),
]


@pytest.fixture
def invoke(monkeypatch):
    settings = to_settings(load_config("configs/config.yaml", ["training.adapter=lora"]))
    monkeypatch.setattr("roadwork.preflight.catalogue.list_backbones", lambda config, overrides: (settings, ROWS))
    return lambda *arguments: CliRunner().invoke(app, ["models", *arguments], env={"COLUMNS": "100"})


def test_the_table_reads_at_100_columns(invoke):
    result = invoke()
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines()[:16])) <= 100
    text = " ".join(result.output.split())
    for part in ("At 224 pixels, in batches of 32, adapter lora", "→ dinov3_convnext_tiny", "27.8 M", "1,234", "8.9",
                 "6.0", "0.5", "StreetVision", " yes ", "some[one]/odd",
                 "odd cannot be built here: it has no [head] at all"):  # fmt: skip
        assert part in text


def test_json_is_exact(invoke):
    first, second = json.loads(invoke("--json").stdout)
    assert first["cost"]["parameters"] == 27_800_000
    assert first["cost"]["training_bytes"] == 6 * 2**30
    assert (second["cost"], second["problem"]) == (None, "it has no [head] at all")


def test_numbers_are_short(invoke):
    assert [roadwork.cli.tools._count(n) for n in (34, 99_999, 100_000, 303_233_026)] == [
        "34", "99,999", "0.1 M", "303.2 M",
    ]  # fmt: skip
