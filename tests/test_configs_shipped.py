"""Every shipped YAML composes and validates, and says the same as the defaults in the code."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from roadwork.config import load_config, to_settings
from roadwork.settings import Settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = ("data", "model", "training")
DEFAULTS = OmegaConf.to_container(OmegaConf.structured(Settings), resolve=False)


def files(*folders):
    return [
        path.relative_to(CONFIGS).as_posix() for folder in folders for path in sorted((CONFIGS / folder).glob("*.yaml"))
    ]


def assert_same(written, default, where):
    """Every value of a file is the default of the same key; bare `inf` is text until the schema types it."""
    for key, value in written.items():
        if isinstance(value, dict) and default[key]:
            assert_same(value, default[key], f"{where}.{key}")
        elif key == "weight_brackets":
            assert [[float(v) for v in row] for row in value] == default[key]
        else:
            assert value == default[key], f"{where}.{key}"


def test_there_is_something_to_check():
    assert {"data/natix.yaml", "training/default.yaml", "experiment/demo.yaml"} <= set(files(*GROUPS, "experiment"))
    unknown = {p.name for p in CONFIGS.iterdir() if p.is_dir()} - {*GROUPS, "experiment"}
    assert not unknown, f"{unknown} is checked by no test"


@pytest.mark.parametrize("file", ["config.yaml", *files("experiment")])
def test_whole_configurations(file):
    assert isinstance(to_settings(load_config(CONFIGS / file)), Settings)


@pytest.mark.parametrize("file", files(*GROUPS))
def test_group_files(file):
    group, name = Path(file).parent.name, Path(file).stem
    settings = to_settings(load_config(CONFIGS / "config.yaml", [f"{group}={name}"]))
    written = OmegaConf.to_container(OmegaConf.load(CONFIGS / file))
    for key, value in written.items():
        if not isinstance(value, dict | str):
            assert getattr(getattr(settings, group), key) == value


@pytest.mark.parametrize(("file", "group"), [("data/natix.yaml", "data"), ("training/default.yaml", "training")])
def test_no_drift_from_the_schema(file, group):
    assert_same(OmegaConf.to_container(OmegaConf.load(CONFIGS / file), resolve=False), DEFAULTS[group], group)


def test_shipped_configuration_equals_the_schema_except_model():
    shipped = OmegaConf.to_container(load_config(CONFIGS / "config.yaml"), resolve=False)
    assert {k: v for k, v in shipped.items() if k != "model"} == {k: v for k, v in DEFAULTS.items() if k != "model"}


def test_the_split_ratios_stand_on_a_line_of_their_own_in_order():
    lines = (CONFIGS / "data" / "natix.yaml").read_text().splitlines()
    start = lines.index("splits:")
    assert [line.strip() for line in lines[start + 1 : start + 5]] == [
        "train: 0.60", "val_select: 0.15", "val_calib: 0.15", "val_test: 0.10"
    ]  # fmt: skip
