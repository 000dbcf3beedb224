"""`roadwork config` lists, searches and explains keys, and shows a configuration, without loading torch."""

import subprocess
import sys

import pytest
import yaml
from fixtures.config import CHECKOUT
from typer.testing import CliRunner

from roadwork.cli.app import app
from roadwork.config import load_config, to_settings
from roadwork.core.errors import ConfigError
from roadwork.settings.reference import describe_settings

import roadwork.cli.config  # noqa: F401  isort: skip  # it registers the commands


@pytest.fixture
def run(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    monkeypatch.delenv("ROADWORK_DATA", raising=False)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["config", *arguments], env={"COLUMNS": "100"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return invoke


def test_list_prints_every_key(run):
    lines = run("list").splitlines()
    printed = {line.split()[0] for line in lines if line.strip()}
    assert {entry.key for entry in describe_settings()} <= printed
    assert max(map(len, lines)) <= 100


def test_list_of_a_group(run):
    keys = [line.split()[0] for line in run("list", "data.dataloader").splitlines() if "data." in line]
    assert keys == [f"data.dataloader.{name}" for name in (
        "batch_size", "num_workers", "prefetch_factor", "pin_memory", "persistent_workers"
    )]  # fmt: skip


def test_search_finds_names_and_descriptions(run):
    output = run("search", "CutMix")
    assert "data.augmentation.train.cutmix_alpha" in output
    assert "data.augmentation.train.mix_probability" in output  # in its description only
    assert "training.lr" not in output


def test_explain_prints_type_default_limits_and_source(run):
    text = " ".join(run("explain", "training.layer_decay").split())
    assert "type float default 1 allowed between 0.1 and 1.0 value 1 (the default)" in text
    assert "224 (from configs/data/natix.yaml)" in run("explain", "data.img_size")
    assert "96 (from configs/experiment/demo.yaml)" in run(
        "explain", "data.img_size", "--config", "configs/experiment/demo.yaml"
    )
    assert "64 (from the command line)" in run("explain", "data.img_size", "data.img_size=64")
    assert "a value is required" not in run("explain", "data.extra[].share")


def test_explain_of_a_group_lists_its_keys(run):
    assert "privacy.blur" in run("explain", "privacy")


def test_show_prints_the_resolved_configuration(run, tmp_path):
    shown = run("show", "--config", "configs/experiment/demo.yaml", "training.epochs=5", "model.name=vit")
    (tmp_path / "shown.yaml").write_text(shown)
    expected = load_config("configs/experiment/demo.yaml", ["training.epochs=5", "model.name=vit"])
    assert to_settings(load_config(tmp_path / "shown.yaml")) == to_settings(expected)
    assert yaml.safe_load(shown)["data"]["root"] == "data/demo"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "training.lrr"], r"training\.lrr.*training\.lr\b"),
        (["explain", "draw"], r"draw.*data\.gps_sampling\.draw"),
        (["list", "trainin"], r"trainin\b.*training"),
        (["search", "epoches"], r"'epoches'.*epochs"),
        (["show", "training.lrr=1"], r"training\.lrr.*training\.lr\b"),
    ],
)
def test_unknown_keys_name_the_nearest_ones(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(*arguments)


def test_no_command_loads_torch():
    code = (
        "import sys; from roadwork.cli import main\n"
        "for arguments in (['list'], ['search', 'seed'], ['explain', 'training.lr'], ['show']):\n"
        "    try: main(['config', *arguments])\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
