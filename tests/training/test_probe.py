"""The probe trains only the head, and has no other effect."""

import json
import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn

from roadwork.config import to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.metrics.classification import mcc_from_confusion
from roadwork.models.build import build_model
from roadwork.settings import TrainingSettings
from roadwork.training import linear_probe as probe_module
from roadwork.training import module as module_file
from roadwork.training.callbacks.mcc_callback import MCCCallback
from roadwork.training.linear_probe import probe_head
from roadwork.training.lora.apply import adapt_network
from roadwork.training.module import RoadworkClassifier
from roadwork.training.trainers import base_trainer

PROBE = ("training.probe_epochs=8", "training.probe_lr=0.02", "data.dataloader.num_workers=0")
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8}


def prepare(cfg, adapter="none", name=None):
    settings = to_settings(cfg)
    if name:
        settings.model.name, settings.model.config = name, DINO
    torch.manual_seed(0)
    network = adapt_network(build_model(settings.model, 32), TrainingSettings(adapter=adapter, adapter_rank=2))
    datamodule = NATIXDataModule(cfg)
    datamodule.setup("fit")
    return RoadworkClassifier(network, settings.training).model, datamodule


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def flags(network):
    return [(name, p.requires_grad, p.grad is None) for name, p in network.named_parameters()]


def modes(network):
    return [module.training for module in network.modules()]


def draws():
    return random.random(), np.random.rand(), torch.rand(3).tolist()  # noqa: NPY002


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        ("none", None),
        ("lora", "dinov2"),
        pytest.param("lora", None, marks=pytest.mark.slow),
        pytest.param("vera", "dinov2", marks=pytest.mark.slow),
        pytest.param("ia3", "dinov2", marks=pytest.mark.slow),
    ],
)
def test_probe_changes_only_the_head(tiny_config, adapter, name):
    network, datamodule = prepare(tiny_config(*PROBE, "training.probe_epochs=1"), adapter, name)
    before, was = state(network), (flags(network), modes(network))
    probe_head(network, datamodule)
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    trained = {name for name, p in network.named_parameters() if p.requires_grad and "classifier" in name}
    assert moved == trained != set()
    assert (flags(network), modes(network)) == was


def mcc_of(network, datamodule):
    was, mcc = modes(network), MCCCallback()
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[mcc], enable_checkpointing=False,
                        enable_progress_bar=False)  # fmt: skip
    trainer.validate(RoadworkClassifier(network, datamodule.settings.training), datamodule=datamodule, verbose=False)
    assert modes(network) == was
    return float(mcc_from_confusion(mcc.confusion))


def test_probe_improves_the_random_head_and_logs_its_mcc(tiny_config, caplog):
    network, datamodule = prepare(tiny_config(*PROBE, "training.probe_epochs=40", "data.gps_sampling.enabled=false"))
    before = mcc_of(network, datamodule)
    with caplog.at_level("INFO", logger="roadwork"):
        probe_head(network, datamodule)
    after = mcc_of(network, datamodule)  # through the images
    assert after > before + 0.05
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Probe:")]
    assert len(lines) == 1
    assert "40 epochs" in lines[0]
    assert lines[0].endswith(f"val_select MCC {after:.4f}.")


@pytest.mark.slow
def test_draws_do_not_depend_on_cached_features(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setenv("ROADWORK_CACHE", str(tmp_path / "cache"))
    heads, seen = [], []
    for _ in range(2):
        network, datamodule = prepare(tiny_config(*PROBE))
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)
        probe_head(network, datamodule)
        seen.append(draws())
        heads.append(state(network.classifier))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    assert seen[0] == seen[1] == draws()
    assert all(torch.equal(value, heads[1][key]) for key, value in heads[0].items())


class Own(nn.Module):
    """A network that is not from transformers, so its features cannot be stored."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.Flatten())
        self.classifier = nn.Linear(64, 2)

    def forward(self, pixel_values):
        return type("Output", (), {"logits": self.classifier(self.backbone(pixel_values))})()


def test_probe_reads_images_without_features(tiny_config, caplog):
    _, datamodule = prepare(tiny_config(*PROBE, "training.probe_epochs=1", "training.loss=balanced"))
    network = Own()
    before = state(network)
    with caplog.at_level("INFO", logger="roadwork"):
        probe_head(network, datamodule)
    assert "on the images" in caplog.text
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"classifier.weight", "classifier.bias"}
    assert all(module.training for module in network.modules())


def test_interrupted_probe_leaves_nothing(tiny_config, tmp_path, monkeypatch):
    cfg = tiny_config(*PROBE)
    network, datamodule = prepare(cfg)
    was = flags(network), modes(network)
    steps = []

    def interrupt(*arguments):
        steps.append(arguments)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    original = module_file.training_loss
    monkeypatch.setattr(module_file, "training_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        probe_head(network, datamodule)
    assert (flags(network), modes(network)) == was
    steps.clear()
    with pytest.raises(KeyboardInterrupt):
        base_trainer.BaseTrainer(cfg, build_model(to_settings(cfg).model, 32)).fit(datamodule)
    assert not (tmp_path / "outputs").exists()


def test_fit_starts_with_the_probe_and_resume_does_not(tiny_config, monkeypatch):
    cfg = tiny_config(*PROBE)
    calls = []
    monkeypatch.setattr(probe_module, "_fit_head", lambda *arguments: float(calls.append(arguments) or 0))
    trainer = base_trainer.BaseTrainer(cfg, build_model(to_settings(cfg).model, 32))
    folder = trainer.fit(NATIXDataModule(cfg))
    assert len(calls) == 1
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((folder / "metrics.jsonl").read_text())["epoch"] == 0
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    cfg.training.epochs = 2
    base_trainer.BaseTrainer(cfg, build_model(to_settings(cfg).model, 32)).fit(NATIXDataModule(cfg), folder)
    assert len(calls) == 1
