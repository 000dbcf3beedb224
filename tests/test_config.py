"""One function composes a configuration, whichever way a user came by it, and says what cannot be used."""

import copy
import math
import shutil
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest
from omegaconf import DictConfig, OmegaConf

from roadwork.config import compose_config, find_config, load_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.settings import SPLIT_NAMES, Settings

CHECKOUT = Path(__file__).resolve().parents[1]
CONFIG = CHECKOUT / "configs" / "config.yaml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with a copy of the shipped configuration files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROADWORK_DATA", raising=False)
    shutil.copytree(CHECKOUT / "configs", tmp_path / "configs")
    return tmp_path


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_overrides(project):
    config = load_config("configs/config.yaml", ["data.img_size=96", "training.seed=0", "data.columns.label=works"])
    assert isinstance(config, DictConfig)
    assert (config.data.img_size, config.training.seed, config.data.columns.label) == (96, 0, "works")


def test_a_group_is_chosen_by_an_override(project):
    (project / "configs" / "training" / "quick.yaml").write_text("epochs: 2\n")
    config = load_config("configs/config.yaml", ["training=quick", "model=vit_base", "training.lr=0.5"])
    assert (config.training.epochs, config.training.lr, config.training.patience) == (2, 0.5, 10)
    assert config.model.name == OmegaConf.load("configs/model/vit_base.yaml").name
    with pytest.raises(ConfigError, match=r"configs/training/qick\.yaml.*default, quick"):
        load_config("configs/config.yaml", ["training=qick"])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainin.lr=1", r"\btrainin\b.*\btraining\b"),
        ("training.lrr=1", r"training\.lrr.*training\.lr\b"),
        ("data.gps_sampling.n_cluster=1", r"data\.gps_sampling\.n_cluster\b.*data\.gps_sampling\.n_clusters"),
        ("data.augmentation.train.mod=x", r"data\.augmentation\.train\.mod\b.*data\.augmentation\.train\.mode"),
        ("data.zzz=1", r"data\.zzz.*mode, root, splits_file"),
        ("training.lr=fast", r"training\.lr.*'fast'"),
        ("training.lr=", r"training\.lr.*'None'"),
        ("training.lr=0", r"training\.lr.*0\.0.*above 0"),
        ("training.epochs=1.5", r"training\.epochs.*'1\.5'"),
        ("training.epochs=0", r"training\.epochs.*\b0\b.*at least 1"),
        ("training.seed=-1", r"training\.seed.*-1.*\b0 and 4294967295"),
        ("training.ema_decay=nan", r"training\.ema_decay.*nan.*0\.0 and 1\.0"),
        ("training.adapter=qlora", r"training\.adapter.*'qlora'.*none, lora, dora, adalora, vera, ia3"),
        ("data.mode=hub", r"data\.mode.*'hub'.*local, huggingface"),
        ("training.precision=bf16-true", r"training\.precision.*'bf16-true'.*auto, 32-true"),
        ("data.img_size=5", r"data\.img_size.*\b5\b.*32 and 4096"),
        ("data.img_size.x=5", r"data\.img_size"),
        ("data.dataloader.batch_size=0", r"data\.dataloader\.batch_size.*\b0\b.*auto.*>= 1"),
        ("data.splits.train=0.7", r"data\.splits.*sum to 1"),
        ("data.splits.extra=0.1", r"data\.splits.*train, val_select, val_calib, val_test"),
        ("data.class_names.Works=2", r"data\.class_names.*0 and 1"),
        ("data.gps_sampling.enabled=perhaps", r"data\.gps_sampling\.enabled.*'perhaps'.*bool"),
        ("data.gps_sampling.n_clusters=0", r"n_clusters.*\b0\b.*auto.*>= 1"),
        ("data.gps_sampling.weight_brackets=[[0,far,1]]", r"weight_brackets\[0\]\[1\].*'far'"),
        ("data.splitting.regions=Tokyo", r"data\.splitting\.regions.*'Tokyo'.*list.*\[a, b\]"),
        ("data.splitting.pin_values=test", r"pin_values.*'test'.*mapping.*\{a: b\}"),
        ("data.root=${nowhere}", r"data\.root.*'nowhere'"),
        ("tracking.loggers=[csv]", r"tracking\.loggers.*\['csv'\].*mapping.*\{a: b\}"),
        ("data.splits=[0.7, 0.3]", r"data\.splits.*\[0\.7, 0\.3\].*mapping"),
        ("data.gps_sampling=[csv]", r"data\.gps_sampling\b.*\['csv'\].*enabled"),
        ("model.config.hidden_sizes.x=1", r"model\.config\.hidden_sizes.*\{'x': 1\}.*list"),
        ("data.splitting.regions={a: 1}", r"data\.splitting\.regions.*\{'a': 1\}.*list.*\[a, b\]"),
        ("data.balance=${nowhere}", r"data\.balance.*'nowhere'"),
        ("data.root=[", r"'data\.root=\['"),
        ("data.hub=mine", r"data\.hub\b.*'mine'.*data\.hub\.name"),
        ("experiment=../elsewhere", r"experiment.*'\.\./elsewhere'"),
        ("training.epochs", r"'training\.epochs'.*key=value"),
        ("=5", r"'=5'.*key=value"),
    ],
)
def test_invalid_overrides_are_refused(override, says):
    with pytest.raises(ConfigError, match=says):
        load_config(CONFIG, [override])


def containers(schema, prefix=""):
    """Every key that holds a list or a mapping."""
    for name, hint in get_type_hints(schema).items():
        if is_dataclass(hint):
            yield from containers(hint, f"{prefix}{name}.")
        elif {get_origin(kind) for kind in (hint, *get_args(hint))} & {list, dict}:
            yield prefix + name


@pytest.mark.parametrize("value", ["[csv]", "{a: 1}", "${nowhere}"])
def test_list_for_a_mapping_or_vice_versa_is_one_clear_error(value):
    keys = list(containers(Settings))
    assert {"data.columns", "data.splitting.regions", "tracking.loggers"} <= set(keys)
    said = {key: refusal_of(f"{key}={value}") for key in keys}
    refused = {key: message for key, message in said.items() if message}
    assert len(refused) > len(keys) / 3
    assert [key for key, message in refused.items() if key not in message] == []


def refusal_of(override):
    try:
        load_config(CONFIG, [override])
    except ConfigError as error:
        return str(error)
    return None


def test_an_unknown_key_in_a_file_and_in_a_group_file(project):
    edit(project / "configs" / "training" / "default.yaml", "epochs:", "epoch:")
    with pytest.raises(ConfigError, match=r"training\.epoch\b.*training\.epochs"):
        load_config("configs/config.yaml")


def test_bare_inf_in_yaml(project):
    assert "inf, 0.3" in (project / "configs" / "data" / "natix.yaml").read_text()
    brackets = load_config("configs/config.yaml").data.gps_sampling.weight_brackets
    assert brackets == [[0.0, 50.0, 5.0], [50.0, 200.0, 2.5], [200.0, 500.0, 1.0], [500.0, math.inf, 0.3]]


def test_saved_resolved_and_loaded_again_it_is_equal(tmp_path):
    config = load_config(CONFIG, ["training.epochs=3"])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    again = load_config(tmp_path / "config.yaml")
    assert to_settings(again) == to_settings(config)
    assert again.data.gps_sampling.weight_brackets[3][1] == math.inf


def test_composing_is_idempotent_and_leaves_its_argument_alone(project):
    config = OmegaConf.load("configs/config.yaml")
    before = copy.deepcopy(config)
    once = compose_config(config)
    assert config == before
    assert "defaults" not in once
    snapshot = copy.deepcopy(once)
    assert compose_config(once) == once == snapshot
    once.training.epochs = 99
    assert compose_config(config).training.epochs == 30


def test_plain_omegaconf_with_the_users_settings_on_top(project):
    cfg = OmegaConf.load("configs/config.yaml")
    cfg.data.gps_sampling.enabled = True
    cfg.data.augmentation.train.mode = "heavy_kornia"
    cfg.training.epochs = 7
    cfg.data.gps_sampling.random_seed = 0
    settings = to_settings(cfg)
    assert settings.data.augmentation.train.mode == "heavy_kornia"
    assert (settings.training.epochs, settings.data.gps_sampling.random_seed) == (7, 0)
    assert settings.data.gps_sampling.n_clusters == 5
    assert settings.model.name == OmegaConf.load("configs/model/resnet_small.yaml").name


def test_both_ways_give_the_same(project):
    cfg = OmegaConf.load("configs/config.yaml")
    cfg.data.img_size = 128
    assert compose_config(cfg) == load_config("configs/config.yaml", ["data.img_size=128"])


def test_a_configuration_without_defaults_or_skeleton():
    assert to_settings(OmegaConf.create({"training": {"epochs": 4}})).training.epochs == 4
    assert to_settings(OmegaConf.create({})).data.img_size == 224
    assert to_settings(OmegaConf.create({"data": None})).data.img_size == 224


def test_read_only_configurations_are_composed():
    config = OmegaConf.load(CONFIG)
    OmegaConf.set_readonly(config, True)
    OmegaConf.set_struct(config, True)
    assert compose_config(config).training.epochs == 30


def test_older_training_file_nested_once_more(project):
    nested = {"training": {"epochs": 3, "use_ema": False, "ema_decay": 0.99}}
    OmegaConf.save(OmegaConf.create(nested), project / "configs" / "training" / "default.yaml")
    training = load_config("configs/config.yaml").training
    assert (training.epochs, training.use_ema, training.ema_decay) == (3, False, 0.99)


def test_edits_in_the_working_directory_are_honoured_both_ways(project):
    edit(project / "configs" / "data" / "natix.yaml", "n_clusters: 5", "n_clusters: 9")
    assert load_config("configs/config.yaml").data.gps_sampling.n_clusters == 9
    assert compose_config(OmegaConf.load("configs/config.yaml")).data.gps_sampling.n_clusters == 9


def test_a_split_left_out_of_the_file_is_seen(project):
    edit(project / "configs" / "data" / "natix.yaml", "  val_test: 0.10\n", "")
    with pytest.raises(ConfigError, match=r"data\.splits.*\['train', 'val_select', 'val_calib'\]"):
        load_config("configs/config.yaml")


def test_class_names_in_the_file_replace_the_default_ones(project):
    edit(project / "configs" / "data" / "natix.yaml", '{"None": 0, "Roadwork": 1}', "{clear: 0, works: 1}")
    assert to_settings(load_config("configs/config.yaml")).data.class_names == {"clear": 0, "works": 1}


def test_configs_are_found_from_another_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/config.yaml") == CONFIG
    assert load_config("configs/config.yaml").data.img_size == 224
    assert load_config("configs/experiment/demo.yaml").experiment == "demo"


def test_no_such_file_and_no_such_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"configs/confg\.yaml.*configs/config\.yaml"):
        load_config("configs/confg.yaml")
    for text, says in (
        ("a: [", "YAML"),
        ("- a\n- b\n", "keys"),
        ("just text", "just text"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=says):
            load_config("bad.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load_config("empty.yaml").training.epochs == 30


@pytest.mark.parametrize("entry", ["base", {"data": "natix", "model": "resnet_small"}])
def test_entries_of_defaults_that_are_no_group(entry):
    with pytest.raises(ConfigError, match=r"defaults.*`group: name`"):
        compose_config(OmegaConf.create({"defaults": [entry]}))


def test_root_comes_from_the_environment(project, monkeypatch):
    assert to_settings(load_config("configs/config.yaml")).data.root == "data/demo"
    monkeypatch.setenv("ROADWORK_DATA", "/photos")
    assert to_settings(load_config("configs/config.yaml")).data.root == "/photos"
    assert to_settings(load_config("configs/config.yaml", ["data.root=mine"])).data.root == "mine"


def test_the_contracts_table_of_defaults(project):
    config = load_config("configs/config.yaml")
    expected = {
        "data.splits_file": None,
        "data.hub.name": "natix-network-org/roadwork",
        "data.hub.split": "train",
        "data.class_names": {"None": 0, "Roadwork": 1},
        "data.mode": "local",
        "data.splits": {"train": 0.60, "val_select": 0.15, "val_calib": 0.15, "val_test": 0.10},
        "data.gps_sampling.enabled": True,
        "data.gps_sampling.n_clusters": 5,
        "data.gps_sampling.random_seed": 42,
        "data.gps_sampling.target": "auto",
        "data.gps_sampling.missing_weight": 1.0,
        "data.gps_sampling.draw": "systematic",
        "data.gps_sampling.min_coverage": 0.80,
        "data.augmentation.train.mode": "latest_2025",
        "data.root": "data/demo",
        "data.img_size": 224,
        "data.dataloader.batch_size": 32,
        "training.use_ema": True,
        "training.ema_decay": 0.999,
    }
    assert {key: OmegaConf.select(config, key) for key in expected} == expected
    assert tuple(config.data.splits) == SPLIT_NAMES
