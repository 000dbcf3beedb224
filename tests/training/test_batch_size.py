"""`batch_size: auto` finds a batch size without side effects, and the run records it."""

import logging
import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.cost import kept_bytes
from roadwork.preflight.dry_run import run_dry
from roadwork.training.trainers import factory as batch_size
from roadwork.training.trainers.factory import _Trial, find_batch_size, grow, prepare_trainer

AUTO = "data.dataloader.batch_size=auto"


@pytest.mark.parametrize(
    ("limit", "cap", "expected"), [(100, 1024, 64), (64, 1024, 64), (5000, 1024, 1024), (100, 20, 16), (1, 1024, None)]
)
def test_finds_the_largest_power_of_two_that_fits(limit, cap, expected):
    assert grow(lambda batch: batch <= limit, cap) == expected


def test_batch_of_two_is_tried_with_few_rows():
    assert grow(lambda batch: batch <= 100, 1) == 2


def test_kept_bytes_match_what_autograd_saves():
    weight = torch.ones(3, 5, requires_grad=True)
    rows = torch.rand(7, 3)
    # The gradient of w takes x, that of x takes w; that of exp takes its output.
    assert kept_bytes(lambda: (rows @ weight).exp().sum()) == 4 * (7 * 3 + 7 * 5)
    tracked = torch.rand(7, 3, requires_grad=True)
    assert kept_bytes(lambda: (tracked @ weight).exp().sum()) == 4 * (7 * 3 + 3 * 5 + 7 * 5)
    assert kept_bytes(lambda: (tracked @ weight).exp().sum(), [weight]) == 4 * (7 * 3 + 7 * 5)


@pytest.fixture
def auto(tiny_config):
    datamodule = NATIXDataModule(tiny_config())
    trainer = prepare_trainer(datamodule)
    datamodule.setup("fit")
    return trainer, datamodule


def state_of(trainer):
    weights = {name: value.clone() for name, value in trainer.module.state_dict().items()}
    return weights, trainer.module.training, [p.grad for p in trainer.module.parameters()]


def test_search_changes_no_weight_or_random_state(auto):
    trainer, datamodule = auto
    before = state_of(trainer)
    draws = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    find_batch_size(trainer, datamodule)
    after = state_of(trainer)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert after[1:] == before[1:]
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (np.random.get_state()[1] == draws[1]).all()  # noqa: NPY002
    assert random.getstate() == draws[2]


def test_cpu_batch_size_follows_available_memory(auto, monkeypatch, caplog):
    trainer, datamodule = auto
    trial = _Trial(trainer, datamodule)
    a_row, state = trial.bytes_per_image(), trial.state_bytes()
    assert state == 4 * sum(p.nbytes for p in trainer.module.parameters())  # gradient, two averages, EMA
    monkeypatch.setattr(batch_size, "available_bytes", lambda: int(2 * (state + 9 * a_row)))
    with caplog.at_level(logging.INFO):
        assert find_batch_size(trainer, datamodule) == 8
    assert "8 images per step" in caplog.text
    assert "training.lr" in caplog.text
    monkeypatch.setattr(batch_size, "available_bytes", lambda: int(2 * (state + a_row)))
    with pytest.raises(ConfigError, match=r"2 images.*data\.img_size"):
        find_batch_size(trainer, datamodule)


def test_memory_estimate_grows_with_images_and_covers_usage(auto, tiny_config):
    trainer, datamodule = auto
    trial = _Trial(trainer, datamodule)
    few, many = (kept_bytes(lambda n=n: trial.loss(n)) for n in (2, 10))
    assert (many - few) / 8 <= trial.bytes_per_image() <= 3 * (many - few) / 8
    larger = NATIXDataModule(tiny_config("data.img_size=64"))
    larger.setup("fit")
    ratio = _Trial(prepare_trainer(larger), larger).bytes_per_image() / trial.bytes_per_image()
    assert ratio == pytest.approx(4, rel=0.15)


def test_gpu_batch_size_grows_until_memory_is_full(auto, monkeypatch):
    """A fake GPU allocator: a step takes 1 GB per image of 10 GB, and a tenth stays free."""
    trainer, datamodule = auto
    tried, peak, gb = [], [0], 10**9
    trial = _Trial(trainer, datamodule)

    def step(batch):
        tried.append(batch)
        peak[0] = max(peak[0], batch * gb)
        if batch > 10:
            raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(trial, "step", step)
    stand_ins = {
        "empty_cache": lambda: None,
        "mem_get_info": lambda _: (9 * gb, 10 * gb),
        "memory_reserved": lambda _: gb,
        "reset_peak_memory_stats": lambda _: peak.__setitem__(0, 0),
        "max_memory_reserved": lambda _: peak[0],
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    assert grow(trial.fits_gpu, 1024) == 8
    assert tried == [2, 2, 4, 4, 8, 8, 16]
    assert trial.fits_gpu(9)
    assert not trial.fits_gpu(10)  # it runs, and leaves nothing free


def test_trial_step_trains_only_the_copy(auto):
    trainer, datamodule = auto
    trial = _Trial(trainer, datamodule)
    before = [p.detach().clone() for p in trial.module.parameters()]
    trial.step(4)
    assert any((p != old).any() for p, old in zip(trial.module.parameters(), before, strict=True))
    assert all(torch.equal(p, old) for p, old in zip(trainer.module.parameters(), before, strict=True))


def test_run_records_the_batch_size_and_resumes_with_it(tiny_config, monkeypatch):
    datamodule = NATIXDataModule(tiny_config(AUTO))
    trainer = prepare_trainer(datamodule)
    found = trainer.settings.data.dataloader.batch_size
    assert found == 16  # an eighth of 144 training rows is 18
    assert {datamodule.settings.data.dataloader.batch_size, trainer.cfg.data.dataloader.batch_size} == {found}
    assert [row.wire for row in run_dry(datamodule, trainer) if not row.works] == []
    folder = prepare_trainer(datamodule).fit(datamodule)
    assert OmegaConf.load(folder / "config.yaml").data.dataloader.batch_size == found

    def search_again(*_):
        raise AssertionError

    monkeypatch.setattr("roadwork.training.trainers.factory.find_batch_size", search_again)
    again = NATIXDataModule(tiny_config(AUTO, "training.epochs=2"))
    resumed = prepare_trainer(again, resume_from=folder)
    resumed.fit(again, resume_from=folder)
    assert again.train_dataloader().batch_size == found
    assert resumed.trainer.current_epoch == 2


def test_batch_size_of_a_users_own_network(tiny_config):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, pixel_values):
            return type("Output", (), {"logits": self.head(pixel_values.mean((2, 3)))})

    from roadwork.training.trainers.base_trainer import BaseTrainer

    datamodule = NATIXDataModule(tiny_config())
    datamodule.setup("fit")
    assert find_batch_size(BaseTrainer(datamodule.cfg, Logits()), datamodule) == 16
