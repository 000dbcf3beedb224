"""`roadwork experiment gps` from the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.config import CHECKOUT, TINY_MODEL
from PIL import Image

from roadwork.cli import main
from roadwork.config import to_settings
from roadwork.core.errors import MissingExtraError
from roadwork.data import open as dataset_module
from roadwork.data.source import read_dataset
from roadwork.experiments import comparison
from roadwork.experiments.gps_analysis import GAIN, HARM, NO_EVIDENCE
from roadwork.experiments.gps_conditions import CONDITIONS, prepare_experiment
from roadwork.experiments.heads import HeadSettings
from roadwork.settings import SPLIT_NAMES

QUICK = ("data.splitting.near_duplicates=false", "evaluation.bootstrap_draws=200")


def run(demo_root: Path, tmp_path: Path, *arguments: str) -> int:
    config = str(CHECKOUT / "configs" / "config.yaml")
    options = ["experiment", "gps", "--config", config, "--folds", "3", "--steps", "20", *arguments]
    try:
        main([*options, *TINY_MODEL, *QUICK, f"data.root={demo_root}", f"output_dir={tmp_path / 'outputs'}"])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "80")
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers  # the command's own handlers write to a stream that capsys has closed


def test_command_writes_the_report_and_keeps_seeds(demo_root, tmp_path, capsys):
    assert run(demo_root, tmp_path, "--seeds", "1") == 0
    assert "model.pretrained" in capsys.readouterr().err
    assert run(demo_root, tmp_path, "--seeds", "2") == 0
    printed, logged = capsys.readouterr()
    assert "seed-0.npz" in logged
    assert "seed-1.npz" not in logged
    assert max(len(line) for line in printed.splitlines() if not line.startswith("val_test was not opened")) <= 80
    folder = (tmp_path / "outputs" / "default" / "gps" / "latest").resolve()
    report = json.loads((folder / "gps_experiment.json").read_text())
    assert report["seeds"] == 2
    assert report["folds"] == 3
    assert report["heads"]["steps"] == 20
    assert set(report["arms"]) == set(CONDITIONS)
    assert report["config"]["data"]["img_size"] == 32
    assert report["versions"]["torch"]
    assert report["verdict"]["claim"] in (GAIN, HARM, NO_EVIDENCE)
    assert "--seeds 2" in report["command"]
    markdown = (folder / "gps_experiment.md").read_text()
    assert report["verdict"]["claim"] in markdown
    assert report["command"] in markdown
    assert "model.pretrained" in markdown
    assert f"{report['random_folds']['mcc']['value']:.3f}" in markdown
    assert "model.pretrained" in printed
    with Image.open(folder / "gps_experiment.png") as picture:
        assert picture.width > 800
    assert not (tmp_path / "outputs" / "default" / "latest").exists()  # only `roadwork train` makes this link


def make_root(demo_root: Path, root: Path, *, is_poisoned: bool) -> Path:
    """The demo scenes with a splits file; if poisoned, val_test has flipped labels and no images."""
    labels = pd.read_csv(demo_root / "labels.csv", dtype=str, keep_default_na=False)
    sequences = np.unique(labels["sequence_id"])
    split_of = dict(zip(sequences, np.resize(SPLIT_NAMES, len(sequences)), strict=True))
    names = labels["sequence_id"].map(split_of).to_numpy()
    (root / "images").mkdir(parents=True)
    (root / "deployment.geojson").write_bytes((demo_root / "deployment.geojson").read_bytes())
    for name in labels["filename"][(names != "val_test") | (not is_poisoned)]:
        (root / name).symlink_to(demo_root / name)
    if is_poisoned:
        other = labels["label"].map({"None": "Roadwork", "Roadwork": "None"})
        labels.loc[names == "val_test", "label"] = other[names == "val_test"]
    labels.to_csv(root / "labels.csv", index=False)
    splits = {name: labels["filename"][names == name].tolist() for name in SPLIT_NAMES}
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def test_val_test_is_never_opened(demo_root, tmp_path, tiny_config):
    keys = []
    for is_poisoned in (False, True):
        root = make_root(demo_root, tmp_path / str(is_poisoned), is_poisoned=is_poisoned)
        settings = to_settings(tiny_config(*QUICK, f"data.root={root}"))
        experiment = prepare_experiment(settings, HeadSettings(), 3)
        keys.append(experiment.key())
    assert keys[0] == keys[1]  # everything that the metrics depend on
    splits = json.loads((root / "splits.json").read_text())
    assert not set(experiment.table.ids) & set(splits["val_test"])
    assert len(experiment.table) == sum(len(splits[name]) for name in SPLIT_NAMES[:3])


def test_rows_set_aside_are_omitted(demo_root, tmp_path, tiny_config, monkeypatch):
    root = make_root(demo_root, tmp_path / "data", is_poisoned=False)
    settings = to_settings(tiny_config(*QUICK, f"data.root={root}"))
    whole = set(prepare_experiment(settings, HeadSettings(), 3).table.ids)
    find_groups = dataset_module.find_groups

    def set_first_aside(*arguments):
        groups = find_groups(*arguments)
        return replace(groups, set_aside=np.arange(len(groups.names)) < 40)

    monkeypatch.setattr(dataset_module, "find_groups", set_first_aside)
    part = set(prepare_experiment(settings, HeadSettings(), 3).table.ids)
    table, _ = read_dataset(settings.data)
    assert part == whole - set(table.ids[:40])
    assert part < whole


def test_missing_matplotlib_fails_first(demo_root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'roadwork-vision\[report\]'"):
        comparison.check_installed("matplotlib", "The plot")
    assert run(demo_root, tmp_path) == 1
    assert "pip install" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as end:
        main(["experiment", "gps", "--help"])
    assert not end.value.code
    assert "Example: roadwork experiment gps" in " ".join(capsys.readouterr().out.split())
