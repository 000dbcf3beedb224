"""`roadwork map` for a configuration and for a run folder."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

import roadwork.cli.data  # noqa: F401 -- registers the command
from roadwork.cli.app import app
from roadwork.config import to_settings
from roadwork.core.errors import DataError, SplitError
from roadwork.data.local import read_local
from roadwork.data.splitting.splits import Splits
from roadwork.maps.map import write_data_map, write_run_map
from roadwork.metrics.predictions import build_predictions, write_predictions
from roadwork.settings import SPLIT_NAMES


@pytest.fixture
def split_root(demo_root, tmp_path):
    """The demo data with hand-made splits. Images are linked, and a map must not decode them."""
    root = tmp_path / "streets"
    root.mkdir()
    for name in ("labels.csv", "deployment.geojson"):
        shutil.copy(demo_root / name, root)
    (root / "images").symlink_to(demo_root / "images")
    ids = {name: [] for name in SPLIT_NAMES}
    table, _ = read_local(root, {}, {"None": 0, "Roadwork": 1})
    for number, row_id in enumerate(table.ids):
        ids[SPLIT_NAMES[number % 4]].append(row_id)
    set_aside = [ids["val_select"].pop()]
    Splits(ids, set_aside, "geographic", 0, {}, table.fingerprint()).write(root / "splits.json")
    return root


def test_map_of_a_configuration_is_in_the_output_folder(split_root, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("the map decoded an image"))
    settings = to_settings(tiny_config(f"data.root={split_root}"))
    path = write_data_map(settings)
    assert path == tmp_path / "outputs" / "map.html"
    page = path.read_text()
    assert "<title>streets</title>" in page
    assert "In no split" in page
    assert "deployment.geojson" in page
    assert "Missed roadwork" not in page


def test_missing_splits_name_the_command(split_root, tiny_config):
    (split_root / "splits.json").unlink()
    with pytest.raises(SplitError, match="roadwork split"):
        write_data_map(to_settings(tiny_config(f"data.root={split_root}")))


def test_data_without_positions_fails_before_the_deployment(split_root, tiny_config):
    labels = pd.read_csv(split_root / "labels.csv", keep_default_na=False)
    labels.assign(latitude=np.nan, longitude=np.nan, gps=np.nan).to_csv(split_root / "labels.csv", index=False)
    (split_root / "deployment.geojson").unlink()
    (split_root / "images").unlink()  # their EXIF would fill the blank columns
    with pytest.raises(DataError, match=r"data\.columns"):
        write_data_map(to_settings(tiny_config(f"data.root={split_root}")))


def test_deployment_is_hidden_with_weighting_off(split_root, tiny_config):
    path = write_data_map(to_settings(tiny_config(f"data.root={split_root}", "data.gps_sampling.enabled=false")))
    assert "Deployment centres" not in path.read_text()


def test_splits_that_leak_by_design_are_flagged(split_root, tiny_config):
    file = split_root / "splits.json"
    file.write_text(file.read_text().replace('"geographic"', '"random"'))
    assert "Warning" in write_data_map(to_settings(tiny_config(f"data.root={split_root}"))).read_text()


@pytest.fixture
def run(split_root, tiny_config, tmp_path):
    folder = tmp_path / "outputs" / "first" / "20261122T000000Z"
    folder.mkdir(parents=True)
    OmegaConf.save(tiny_config(f"data.root={split_root}", "experiment=first"), folder / "config.yaml")
    shutil.move(split_root / "splits.json", folder / "splits.json")
    return folder


def test_run_map_shows_its_splits_and_evaluated_errors(run, split_root):
    before = write_run_map(run).read_text()
    assert "<title>first, 20261122T000000Z</title>" in before
    assert "Missed roadwork" not in before
    table, _ = read_local(split_root, {}, {"None": 0, "Roadwork": 1})
    logits = np.stack([np.ones(len(table)), np.zeros(len(table))], axis=1)  # None, for all of them
    frame = build_predictions(
        table, np.full(len(table), "val_test", object), table.ids, logits, np.full(len(table), np.nan)
    )
    write_predictions(frame, run / "predictions.parquet")
    after = write_run_map(run).read_text()
    assert f"Missed roadwork ({table.labels.sum():,}" in after
    located = frame[(frame["label"] == 1) & frame["latitude"].notna()]
    assert located["filename"].iloc[0] in after


def test_command_takes_run_and_overrides_and_prints_the_path(run, tmp_path):
    out = tmp_path / "shown.html"
    done = CliRunner().invoke(app, ["map", str(run), "privacy.coarsen_gps=1", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert str(out) in done.output.replace("\n", "")
    assert "rounded to 1 decimal" in out.read_text()
    assert not (run / "map.html").exists()


def test_two_runs_or_a_run_with_a_config_are_rejected(run):
    assert CliRunner().invoke(app, ["map", str(run), str(run)]).exit_code == 2
    assert CliRunner().invoke(app, ["map", str(run), "--config", "other.yaml"]).exit_code == 2
