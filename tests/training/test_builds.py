"""`roadwork train` builds its network once, and a Lightning Trainer for the dry run and one for the fit."""

import lightning as L
import pytest
import torch
from fixtures.adapter_runs import make_pretrained

from roadwork.cli.train import prove_and_train
from roadwork.data.datamodule import NATIXDataModule
from roadwork.preflight.dry_run import run_dry
from roadwork.training import initialization
from roadwork.training.trainers import factory
from roadwork.training.trainers.factory import prepare_trainer


@pytest.fixture
def builds(monkeypatch):
    """Counts networks and Lightning Trainers as they are built."""
    counts = {"networks": 0, "rebuilt": 0, "trainers": 0}

    def counted(name, build):
        def call(*args, **kwargs):
            counts[name] += 1
            return build(*args, **kwargs)

        return call

    monkeypatch.setattr(factory, "build_model", counted("networks", factory.build_model))
    monkeypatch.setattr(initialization, "build_model", counted("rebuilt", initialization.build_model))
    monkeypatch.setattr(L.Trainer, "__init__", counted("trainers", L.Trainer.__init__))
    return counts


def test_training_builds_one_network_and_two_trainers(tiny_config, builds):
    prove_and_train(NATIXDataModule(tiny_config("training.adapter=lora")), None)
    assert builds == {"networks": 1, "rebuilt": 0, "trainers": 2}


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_frozen_pretrained_weights_are_rebuilt_once(tiny_config, builds, tmp_path):
    cfg = tiny_config("training.adapter=lora")
    cfg.model.name, cfg.model.pretrained, cfg.model.config = str(make_pretrained(tmp_path / "vit", "vit")), True, {}
    prove_and_train(NATIXDataModule(cfg), None)
    assert builds == {"networks": 1, "rebuilt": 1, "trainers": 2}


@pytest.mark.parametrize("adapter", ["none", "adalora"])
def test_dry_run_leaves_the_trainer_as_it_was(tiny_config, adapter):
    datamodule = NATIXDataModule(tiny_config(f"training.adapter={adapter}"))
    trainer = prepare_trainer(datamodule)
    fresh = prepare_trainer(NATIXDataModule(tiny_config(f"training.adapter={adapter}")))
    run_dry(datamodule, trainer)
    expected = fresh.module.state_dict()
    assert trainer.module.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in trainer.module.state_dict().items())
    assert trainer.ema_callback.n_updates == 0
    assert all(parameter.grad is None for parameter in trainer.module.parameters())
