"""Configurations are composed once, and `model.name` alone names another network."""

import copy

import pytest
from fixtures.config import CHECKOUT
from omegaconf import OmegaConf

import roadwork.config
from roadwork.config import compose_config, is_composed, load_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.training.trainers.base_trainer import BaseTrainer

CONFIG = CHECKOUT / "configs" / "config.yaml"
RESNET = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}


@pytest.fixture
def files_read(monkeypatch):
    """The YAML files read so far."""
    read, load = [], roadwork.config.load_yaml
    monkeypatch.setattr(roadwork.config, "load_yaml", lambda file: read.append(file.name) or load(file))
    return read


@pytest.mark.parametrize("is_plain", [False, True])
def test_a_command_reads_each_file_once(files_read, demo_root, is_plain):
    overrides = [f"data.root={demo_root}", "data.img_size=32"]
    cfg = load_config(CONFIG, overrides)
    if is_plain:  # users of plain OmegaConf compose in the data module
        files_read.clear()
        cfg = OmegaConf.merge(OmegaConf.load(CONFIG), OmegaConf.from_dotlist(overrides))
    datamodule = NATIXDataModule(cfg)
    datamodule._get_train_transforms(datamodule.cfg)
    settings = datamodule.settings
    BaseTrainer(datamodule.cfg, build_model(settings.model, settings.data.img_size))
    files = ["natix.yaml", "resnet_small.yaml", "default.yaml"]
    assert files_read == (files if is_plain else ["config.yaml", *files])


def test_a_composed_configuration_is_checked_again():
    cfg = load_config(CONFIG)
    assert is_composed(cfg)
    cfg.training.epochs = 0
    for use in (compose_config, to_settings):
        with pytest.raises(ConfigError, match=r"training\.epochs.*\b0\b"):
            use(cfg)
    cfg.training.epochs = 1
    OmegaConf.set_struct(cfg.training, False)
    cfg.training.epoch = 2
    with pytest.raises(ConfigError, match=r"training\.epoch\b.*training\.epochs"):
        compose_config(cfg)


def test_a_composed_configuration_is_copied():
    cfg = load_config(CONFIG)
    before, again = copy.deepcopy(cfg), compose_config(cfg)
    again.training.epochs = 99
    assert cfg == before
    assert is_composed(again)


def model_of(*overrides, config=CONFIG):
    model = load_config(config, overrides).model
    return model.name, model.pretrained, dict(model.config)


def test_a_model_name_alone_drops_the_default_networks_config(model_folder):
    assert model_of(f"model.name={model_folder}") == (str(model_folder), True, {})
    assert model_of("model.name=someone/network") == ("someone/network", True, {})
    assert model_of("model=dinov2_base", "model.name=someone/network") == ("someone/network", True, {})
    assert model_of("model.name=vit") == ("vit", False, {})
    assert model_of(f"model.name={model_folder}", "model.pretrained=false") == (str(model_folder), False, {})


def test_a_model_name_in_a_users_file_drops_it_too(tmp_path, model_folder):
    user = tmp_path / "mine.yaml"
    user.write_text(f"defaults: [{{model: resnet_small}}]\nmodel: {{name: {model_folder}}}\n")
    assert model_of(config=user) == (str(model_folder), True, {})
    user.write_text("defaults: [{model: dinov2_small}]\nmodel: {name: vit, config: {model_type: vit, patch_size: 8}}\n")
    assert model_of("model.name=someone/network", config=user) == ("someone/network", True, {})
    cfg = OmegaConf.load(CONFIG)
    cfg.model.name = str(model_folder)
    assert to_settings(cfg).model.config == {}
    assert to_settings(cfg).model.pretrained


def test_the_default_name_keeps_the_default_config():
    name, pretrained, config = model_of("model.name=resnet")
    assert (name, pretrained, config["embedding_size"]) == ("resnet", False, 32)


@pytest.mark.parametrize("empty", ["null", "{}"])
def test_an_empty_model_config_clears_the_groups(empty):
    assert model_of("model=vit_base", f"model.config={empty}") == ("google/vit-base-patch16-224", True, {})


def test_a_config_beside_a_new_name_extends_a_typed_one():
    fields = model_of("model=dinov2_base", "model.name=someone/large", "model.config.hidden_size=1024")[2]
    assert (fields["model_type"], fields["hidden_size"], fields["patch_size"]) == ("dinov2", 1024, 14)
    # The type of this one was its name.
    assert model_of("model.name=vit", "model.config.patch_size=8")[2] == {"patch_size": 8}


def test_weights_of_a_folder_named_alone_are_trained(model_folder):
    settings = to_settings(load_config(CONFIG, [f"model.name={model_folder}", "data.img_size=32"]))
    network = build_model(settings.model, 32)
    assert network.config.model_type == "resnet"


def test_a_config_that_disagrees_with_the_weights_names_the_field(model_folder):
    stored = OmegaConf.load(model_folder / "config.json")
    width = list(stored.hidden_sizes)
    fields = "{hidden_sizes: [4, 4], hidden_act: relu}"
    settings = to_settings(load_config(CONFIG, [f"model.name={model_folder}", f"model.config={fields}"]))
    with pytest.raises(ConfigError, match=r"model\.config\.hidden_sizes is \[4, 4\]") as error:
        build_model(settings.model, 32)
    assert str(width) in str(error.value)
    assert "hidden_act" not in str(error.value)
    assert "model.config={}" in str(error.value)
