"""The catalogue lists each shipped backbone with its cost, or the reason why it cannot be built."""

import logging
from dataclasses import replace

import pytest
from fixtures.config import CHECKOUT
from omegaconf import OmegaConf

from roadwork.config import load_config, to_settings
from roadwork.export.consumer import STREETVISION_MODEL_TYPES
from roadwork.preflight import catalogue
from roadwork.preflight.catalogue import (
    ABSENT,
    CONFIGURED,
    HERE,
    LICENCES,
    RANDOM,
    UNKNOWN,
    find_weights,
    licence_of,
    list_backbones,
)
from roadwork.settings import ModelSettings

CONFIG = CHECKOUT / "configs" / "config.yaml"
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
}
TINY_FILES = {
    "tiny_resnet": {
        "name": "resnet",
        "pretrained": False,
        "config": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    },
    "tiny_vit": {"name": "google/vit-base-patch16-224", "pretrained": True, "config": TINY_VIT},
    "tiny_registers": {
        "name": "dinov2_with_registers",
        "pretrained": False,
        "config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8},
    },
    "broken": {"name": "someone/broken", "pretrained": True, "config": {**TINY_VIT, "hiden_size": 8}},
}


@pytest.fixture
def tiny_folder(tmp_path, monkeypatch):
    """A folder of configurations with tiny networks, in place of the shipped ones."""
    configs = tmp_path / "configs"
    (configs / "model").mkdir(parents=True)
    for name, content in TINY_FILES.items():
        OmegaConf.save(OmegaConf.create(content), configs / "model" / f"{name}.yaml")
    (configs / "config.yaml").write_text("defaults: [{model: tiny_resnet}]\n")
    monkeypatch.setattr("roadwork.config.config_folders", lambda: [configs])
    monkeypatch.setattr(catalogue, "config_folders", lambda: [configs])
    return configs / "config.yaml"


def rows_of(config, *overrides):
    _, rows = list_backbones(config, ["data.img_size=32", *overrides])
    return {row.name: row for row in rows}


def test_row_that_cannot_be_built_shows_the_reason(tiny_folder, caplog):
    with caplog.at_level(logging.INFO, "roadwork"):
        rows = rows_of(tiny_folder)
    assert caplog.text == ""  # log messages would interrupt the table
    assert list(rows) == ["broken", "tiny_registers", "tiny_resnet", "tiny_vit"]
    assert "hiden_size is not a field" in rows["broken"].problem
    assert rows["broken"].cost is rows["broken"].family is rows["broken"].streetvision is None
    assert [row.configured for row in rows.values()] == [False, False, True, False]
    assert (rows["tiny_vit"].family, rows["tiny_vit"].problem, rows["tiny_vit"].streetvision) == ("vit", None, True)
    assert rows["tiny_registers"].family not in STREETVISION_MODEL_TYPES
    assert rows["tiny_registers"].streetvision is False
    odd = rows_of(tiny_folder, "data.img_size=36")
    assert "not a multiple" in odd["tiny_vit"].problem
    assert odd["tiny_resnet"].problem is None


def test_trained_parameters_follow_the_configuration():
    def measure(*overrides):
        settings = to_settings(load_config(CONFIG, ["data.img_size=32", *overrides]))
        return catalogue._measure(replace(settings, model=ModelSettings(name="vit", config=TINY_VIT)))[1]

    full, lora, frozen = measure(), measure("training.adapter=lora"), measure("training.freeze_backbone=true")
    assert full.trainable == full.parameters == lora.parameters == frozen.parameters
    assert frozen.trainable == 16 * 2 + 2
    # Rank 8 on each of the 12 linear layers: 8 x (in + out); and the head.
    assert lora.trainable == 8 * 2 * (4 * (16 + 16) + 2 * (16 + 32)) + 16 * 2 + 2
    assert full.training_bytes > lora.training_bytes > frozen.training_bytes > frozen.prediction_bytes
    assert full.forward_flops == lora.forward_flops


def test_configured_network_gets_its_own_row(tiny_folder, model_folder):
    rows = rows_of(tiny_folder, f"model.name={model_folder}", "model.pretrained=true")
    row = rows[CONFIGURED]
    assert (row.source, row.configured, row.family, row.weights) == (str(model_folder), True, "resnet", HERE)
    assert not rows["tiny_resnet"].configured
    assert row.cost.parameters == rows["tiny_resnet"].cost.parameters


def test_row_reports_mismatched_fields(tiny_folder, model_folder):
    rows = rows_of(tiny_folder, f"model.name={model_folder}", "model.pretrained=true", "model.config.model_type=vit")
    assert "is a 'resnet'" in rows[CONFIGURED].problem


def test_licences(tmp_path):
    shipped = [OmegaConf.load(path) for path in (CHECKOUT / "configs" / "model").glob("*.yaml")]
    assert {model.name for model in shipped if model.get("pretrained")} <= set(LICENCES)
    assert licence_of(ModelSettings(name="someone/else", pretrained=True)) == UNKNOWN
    assert licence_of(ModelSettings(name="resnet")) == "no weights"
    folder = ModelSettings(name=str(tmp_path), pretrained=True)
    assert licence_of(folder) == UNKNOWN
    for card, licence in {
        "---\nlicense: mit\ntags: [a]\n---\n# A model\n": "mit",
        "---\nlicense: other\nlicense_name: dinov3-license\n---\n": "dinov3-license",
        "---\ntags: [a]\n---\n": UNKNOWN,
        "# A model\n---\nlicense: mit\n---\n": UNKNOWN,
        "---\n{\n---\n": UNKNOWN,
    }.items():
        (tmp_path / "README.md").write_text(card)
        assert licence_of(folder) == licence


def test_weights_are_found_locally(tmp_path, monkeypatch):
    assert find_weights(ModelSettings(name="resnet")) == RANDOM
    folder = ModelSettings(name=str(tmp_path), pretrained=True)
    assert find_weights(folder) == ABSENT
    (tmp_path / "model.safetensors").touch()
    assert find_weights(folder) == HERE
    hub = ModelSettings(name="someone/model", pretrained=True)
    cached: dict[str, str] = {}
    monkeypatch.setattr(catalogue, "try_to_load_from_cache", lambda name, file: cached.get(file))
    assert find_weights(hub) == ABSENT
    index = tmp_path / "index.json"
    index.write_text('{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}')
    cached |= {"model.safetensors.index.json": str(index), "1.safetensors": "x"}
    assert find_weights(hub) == ABSENT  # one of its parts is missing
    cached["2.safetensors"] = "x"
    assert find_weights(hub) == HERE
    monkeypatch.undo()
    assert find_weights(ModelSettings(name="no hub name: at all", pretrained=True)) == ABSENT


@pytest.mark.slow
def test_every_shipped_backbone_has_a_cost():
    _, rows = list_backbones(CONFIG)
    names = {path.stem for path in (CHECKOUT / "configs" / "model").glob("*.yaml")}
    assert {row.name for row in rows} == names
    assert {row.name: row.problem for row in rows if row.problem} == {}
    by_name = {row.name: row.cost for row in rows}
    # As published: 86 M parameters and 17.6 G multiply-adds (Dosovitskiy et al., 2021; timm's table).
    assert by_name["vit_base"].parameters == pytest.approx(86e6, rel=0.01)
    assert by_name["vit_base"].forward_flops == pytest.approx(2 * 17.6e9, rel=0.01)
    # As published: 28.6 M parameters with 1000 classes, 4.47 G multiply-adds (Woo et al., 2023).
    assert by_name["convnextv2_tiny"].parameters == pytest.approx(28.6e6 - 998 * 769, rel=0.01)
    assert by_name["convnextv2_tiny"].forward_flops == pytest.approx(2 * 4.47e9, rel=0.01)
