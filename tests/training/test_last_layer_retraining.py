"""Last-layer retraining on balanced draws (DFR), from the settings to the predictions."""

import logging

import numpy as np
import pytest
import torch

from roadwork.config import load_yaml, to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.samplers.build import BalancedSampler
from roadwork.evaluation.evaluate import load_best_model
from roadwork.preflight.dry_run import run_dry
from roadwork.runs.run import Run
from roadwork.training.trainers.factory import prepare_trainer

BALANCED = ("data.gps_sampling.enabled=false", "data.balance=[label,city]")
LAST_LAYER = (
    *BALANCED,
    "training.freeze_backbone=true",
    "data.augmentation.train.mode=none",
    "training.lr=0.01",
    "data.dataloader.num_workers=0",
)


def test_only_the_last_layer_is_retrained_on_balanced_draws(tiny_config, tiny_run, caplog):
    cfg = tiny_config(*LAST_LAYER, f"training.start_from={tiny_run}")
    datamodule = NATIXDataModule(cfg)
    caplog.set_level(logging.INFO, logger="roadwork")
    rows = run_dry(datamodule, prepare_trainer(datamodule))
    assert [f"{row.wire}: {row.observed}" for row in rows if not row.works] == []
    assert "label x city" in caplog.text
    folder = prepare_trainer(datamodule).fit(datamodule)
    parent, child = (
        load_best_model(run, to_settings(load_yaml(run / "config.yaml"))).state_dict() for run in (tiny_run, folder)
    )
    moved = {name for name, value in child.items() if not torch.equal(value, parent[name])}
    assert moved == {"classifier.1.weight", "classifier.1.bias"}
    assert Run(folder).read_manifest()["start_from"]["run"] == str(tiny_run)


@pytest.mark.parametrize("draw", ["systematic", "iid"])
def test_each_group_is_drawn_equally_often(draw):
    labels = np.array(["None"] * 90 + ["Roadwork"] * 30, dtype=object)
    cities = np.array((["A"] * 80 + ["B"] * 10) + (["A"] * 3 + ["B"] * 27), dtype=object)
    sampler = BalancedSampler([labels, cities], 0, draw=draw)
    assert sampler.groups == [("None", "A"), ("None", "B"), ("Roadwork", "A"), ("Roadwork", "B")]
    assert sampler.sizes.tolist() == [80, 10, 3, 27]
    drawn = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        drawn += list(sampler)
    counts = np.array([sum((labels[drawn] == a) & (cities[drawn] == b)) for a, b in sampler.groups]) / 20
    assert np.abs(counts - 30).max() <= (1e-9 if draw == "systematic" else 5)
    assert sampler.missing() == []


def test_empty_combinations_give_a_warning(caplog):
    sampler = BalancedSampler([np.array(["a", "a", "b"]), np.array(["x", "", "x"])])
    with caplog.at_level("INFO", logger="roadwork"):
        sampler.log_summary(["label", "city"])
    assert "label x city: 3 groups of 1 to 1 rows" in caplog.text
    assert "b, (empty)" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.balance=[label]",), r"gps_sampling\.enabled.*true"),
        (("data.balance=[label,moon]", BALANCED[0]), r"data\.balance.*'moon'.*city"),
        (("data.balance=[filename]", BALANCED[0]), r"data\.balance.*'filename'"),
    ],
)
def test_unusable_balance_columns_are_errors(tiny_config, overrides, message):
    with pytest.raises(ConfigError, match=message):  # noqa: PT012 -- either may find it
        datamodule = NATIXDataModule(tiny_config(*overrides))
        datamodule.setup("fit")
        datamodule.train_dataloader()


def test_too_many_groups_are_an_error():
    with pytest.raises(ConfigError, match=r"1,001 groups.*1,001"):
        BalancedSampler([np.arange(1001).astype(str)])
