"""`roadwork profile` end to end on tiny data."""

from __future__ import annotations

import json
import tempfile

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

import roadwork.cli.tools  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.cli.tools import _ms
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.images import FileImages
from roadwork.profiling import profile as profile_module
from roadwork.profiling.measure import STAGES
from roadwork.profiling.profile import profile_training, rate


@pytest.fixture
def config_file(tiny_config, tmp_path, monkeypatch):
    """A composed configuration file in an empty working folder, with its own folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    OmegaConf.save(tiny_config(), path)
    return path


def _run(*arguments):
    done = CliRunner().invoke(app, ["profile", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_command_measures_and_writes_only_the_trace(config_file, tmp_path, demo_root, monkeypatch):
    datamodule = NATIXDataModule(OmegaConf.load(config_file))
    datamodule.setup("fit")
    val_test = {int(row) for row in datamodule.datasets["val_test"].rows}
    seen = set()
    read = FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, row: seen.add(row) or read(self, row))
    before = {path for root in (tmp_path, demo_root) for path in root.rglob("*")}

    trace = tmp_path / "trace.json"
    overrides = ("data.cache=none", "data.dataloader.num_workers=0")
    printed = _run("--config", config_file, "--steps", 10, "--json", "--trace", trace, *overrides)

    result = json.loads(printed)
    assert result["steps"] == 10
    assert result["batch_size"] == 16
    assert result["input"]["origins"] == {"photos": 24}
    assert [line["stage"] for line in result["stages"]] == list(STAGES)
    assert sum(line["ms"]["mean"] for line in result["stages"]) == pytest.approx(result["step_ms"]["mean"])
    assert result["epoch_seconds"] == pytest.approx(9 * result["step_ms"]["mean"] / 1000)
    assert "An epoch has 9 batches" in result["notes"][0]  # 13 were run
    labels = [event["name"] for event in json.loads(trace.read_text())["traceEvents"] if "name" in event]
    assert labels.count("roadwork: forward") == 2
    assert {path for root in (tmp_path, demo_root) for path in root.rglob("*")} - before == {trace}
    assert seen
    assert not seen & val_test


def test_table_and_json_show_the_same_figures(config_file, monkeypatch):
    result = profile_training(NATIXDataModule(OmegaConf.load(config_file)), 2)
    monkeypatch.setattr(profile_module, "profile_training", lambda *_: result)
    table = _run("--config", config_file)
    figures = json.loads(_run("--config", config_file, "--json"))
    rows = {line.split()[0]: " ".join(line.split()) for line in table.splitlines() if line.split()}
    for stage, line in zip(result.stages, figures["stages"], strict=True):
        assert line["ms"]["median"] == stage.ms.median
        assert rows[stage.stage].endswith(f"{_ms(stage.ms)} {line['share']:.1%}")
    assert _ms(result.step_ms) in rows["step"]
    assert f"{rate(figures['images_per_s'])} images/s" in rows["step"]
    assert figures["verdict"]["sentence"] in table
    assert all(option in table for option in figures["options"])
    assert "images from RAM, no loader workers" in table
    assert f"{rate(figures['input']['images_per_s'])} images/s a core" in table


def test_less_than_one_step_is_wrong_usage(config_file):
    assert CliRunner().invoke(app, ["profile", "--config", str(config_file), "--steps", "0"]).exit_code == 2


def test_profiling_on_cached_features_is_an_error(config_file):
    datamodule = NATIXDataModule(OmegaConf.load(config_file))
    datamodule.settings.training.freeze_backbone = True
    datamodule.cfg.training.freeze_backbone = True
    datamodule.cfg.data.augmentation.train.mode = "none"
    with pytest.raises(ConfigError, match="no step over images"):
        profile_training(datamodule, 2)
