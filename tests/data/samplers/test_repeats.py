"""Oversampling, compared with Kish's formula on the rows' weights."""

import numpy as np
import pytest
from fixtures.tiny_fits import TinyFits
from torch.utils.data import SequentialSampler

from roadwork.config import to_settings
from roadwork.core.errors import DataError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.data.open import Dataset
from roadwork.data.samplers.stratified_sampler import StratifiedSampler
from roadwork.data.samplers.summary import MAX_REPEATS, Repeats
from roadwork.preflight.checks import OK, WARNING, Preflight, plan_repeats


def sampler_of(sizes, weights):
    index = np.repeat(np.arange(len(sizes)), sizes)
    return StratifiedSampler(
        index, np.array(weights, dtype=float), draw="systematic", random_seed=0, rank=0, world_size=1
    )


@pytest.mark.parametrize(("sizes", "weights"), [((10, 90), (5.0, 0.3)), ((3, 4, 5), (1, 2, 0)), ((7,), (2.5,))])
def test_effective_rows_are_kishs(sizes, weights):
    sampler = sampler_of(sizes, weights)
    w = sampler.weights
    repeats = Repeats.of(sampler, sum(sizes), epochs=20)
    assert repeats.effective_rows == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert repeats.per_row == pytest.approx(20 * len(w) * (w**2).sum() / w.sum() ** 2)


def test_unweighted_sampler_has_no_oversampling():
    assert Repeats.of(SequentialSampler(range(50)), 50, epochs=MAX_REPEATS) == Repeats(50, 50.0, MAX_REPEATS)


def test_oversampling_above_the_limit_suggests_a_fix():
    few = Repeats(1000, 1000.0, MAX_REPEATS)
    assert not few.are_too_many
    assert "seen about 100 times." in str(few)
    many = Repeats(1000, 50.0, 30)
    assert many.are_too_many
    for part in ("30 epochs", "1,000 draws", "50 rows", "600 times", "training.epochs to 5", "weight_brackets"):
        assert part in str(many)
    assert not Repeats(1000, 50.0, 5).are_too_many


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    return TinyFits(tmp_path_factory.mktemp("fits"), "data.gps_sampling.enabled=true").datamodule


@pytest.mark.parametrize(("epochs", "status"), [(3, OK), (3000, WARNING)])
def test_preflight_reports_the_expected_draws(datamodule, epochs, status):
    cfg = datamodule.cfg.copy()
    cfg.training.epochs = epochs
    preflight = Preflight(cfg)
    preflight.dataset = Dataset(datamodule.settings, datamodule.table, datamodule.source)
    preflight.splits = datamodule.splits
    (check,) = preflight._guarded("repeats", preflight._repeats)
    datamodule.train_dataloader()
    w = datamodule.train_sampler.weights
    assert len(set(w)) > 1
    n = w.sum() ** 2 / (w**2).sum()
    assert (check.status, check.found) == (status, str(Repeats(len(w), n, epochs)))
    assert "set training.epochs to" in check.fix


def test_training_and_preflight_give_the_same_sampler_error(datamodule):
    cfg = datamodule.cfg.copy()
    cfg.data.gps_sampling.weight_brackets = [[0.0, 3e4, 0.0], [3e4, float("inf"), 1.0]]  # no place is that far away
    training = NATIXDataModule(cfg)
    training.setup("fit")
    names = datamodule.splits.names_by_row(datamodule.table)
    message = rf"\b{(names == 'train').sum()}\b.*data\.gps_sampling\.weight_brackets"
    with pytest.raises(DataError, match=message) as in_training:
        training.train_dataloader()
    with pytest.raises(DataError, match=message) as in_preflight:
        plan_repeats(to_settings(cfg), datamodule.table, names)
    assert str(in_training.value) == str(in_preflight.value)
