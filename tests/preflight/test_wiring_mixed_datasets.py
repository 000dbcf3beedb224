"""Wiring table: the check of mixed datasets compares expected and drawn shares."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.wiring import failed, wiring_table
from PIL import Image

from roadwork.data import datamodule as datamodule_module
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.samplers.weights import Mixture
from roadwork.preflight.data_wires import extra_rows
from roadwork.preflight.recorder import Observations


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A dataset of noise images without GPS."""
    root = tmp_path_factory.mktemp("generated") / "sdxl"
    root.mkdir()
    rng = np.random.default_rng(0)
    with (root / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label", "latitude", "longitude"])
        for number in range(24):
            noise = Image.fromarray(rng.integers(256, size=(6, 8, 3), dtype=np.uint8))
            noise.resize((64, 48), Image.Resampling.BICUBIC).save(root / f"{number}.png")
            writer.writerow([f"{number}.png", number % 2, "", ""])
    return root


def config(tiny_config, root, how, *overrides):
    return tiny_config(f"data.extra=[{{root: {root}, origin: generated, {how}}}]", *overrides)


def check_draws(cfg):
    """The row without training: it reads only an epoch of the training loader's sampler."""
    datamodule = NATIXDataModule(cfg)
    datamodule.setup("fit")
    epoch = np.array(list(datamodule.train_dataloader().sampler))
    first_batch = next(iter(datamodule.train_dataloader()))["index"]
    probe = SimpleNamespace(train=SimpleNamespace(rows=[first_batch]))
    seen = Observations(None, datamodule, probe, {}, {}, epoch, None, 1, 1)
    return next(iter(extra_rows(seen)))


def test_working_run_passes(tiny_config, generated):
    table = wiring_table(config(tiny_config, generated, "share: 0.3, splits: train"))
    assert failed(table) == {}
    observed = table["extra data (sdxl)"].observed
    assert all(part in observed for part in ("share 30.0%", "24 of 168 training rows"))


@pytest.mark.parametrize("how", ["share: 0.5", "weight: 3", "splits: train", "share: 0, splits: train"])
@pytest.mark.parametrize("enabled", ["true", "false"])
@pytest.mark.parametrize("draw", ["systematic", "iid"])
def test_every_way_of_drawing_passes(tiny_config, generated, how, enabled, draw):
    overrides = (f"data.gps_sampling.enabled={enabled}", f"data.gps_sampling.draw={draw}")
    assert check_draws(config(tiny_config, generated, how, *overrides)).works


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_sampler_that_ignores_the_share_fails(tiny_config, generated, monkeypatch, enabled):
    monkeypatch.setattr(datamodule_module, "find_mixture", lambda data, table, rows: None)
    cfg = config(tiny_config, generated, "share: 0.5, splits: train", f"data.gps_sampling.enabled={enabled}")
    row = check_draws(cfg)
    assert not row.works
    assert "share 50.0%" in row.observed


def test_sampler_with_a_wrong_factor_fails(tiny_config, generated, monkeypatch):
    original = Mixture.factors
    monkeypatch.setattr(Mixture, "factors", lambda self, totals: original(self, totals) * [1, 1.2])
    assert not check_draws(config(tiny_config, generated, "share: 0.3, splits: train")).works


def test_no_check_without_extra_data(tiny_config):
    datamodule = NATIXDataModule(tiny_config())
    assert not list(extra_rows(Observations(None, datamodule, None, {}, {}, np.array([]), None, 1, 1)))
