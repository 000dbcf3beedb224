"""Several networks as one: its logits, folding, saving and loading."""

import math

import pytest
import torch
from fixtures.detectors import FACTS, SIZE
from fixtures.untrained_runs import NETWORKS
from torch import nn

from roadwork.detector.folding import fold_calibration
from roadwork.detector.networks import load_network
from roadwork.evaluation.ensemble import AveragedNetworks, merge_members
from roadwork.export.folder import write_config, write_weights
from roadwork.models.build import build_model
from roadwork.models.ensemble import EnsembleForImageClassification
from roadwork.settings import ModelSettings
from roadwork.training.lora.apply import apply_adapter


def build(model_type, seed):
    torch.manual_seed(seed)
    return build_model(ModelSettings(name=model_type, config=NETWORKS[model_type]), SIZE).eval()


@pytest.fixture
def images():
    return torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def by_hand(networks, images):
    total = torch.zeros(len(images), 2, dtype=torch.float64)
    for network in networks:
        total += network(pixel_values=images).logits.double()
    return total / len(networks)


def test_folded_calibration_equals_calibration_of_the_mean(images):
    networks = [build("vit", 1), build("resnet", 2), build("vit", 3)]
    logits = by_hand(networks, images)
    ensemble = EnsembleForImageClassification.of(networks)
    fold_calibration(ensemble, FACTS.temperature, FACTS.threshold)
    d = (logits[:, 1] - logits[:, 0]) / FACTS.temperature - math.log(FACTS.threshold / (1 - FACTS.threshold))
    with torch.no_grad():
        folded = ensemble(images).logits.double()
    assert torch.allclose(folded, torch.stack([-d / 2, d / 2], dim=1), atol=1e-6)


def test_every_family_survives_saving_and_loading(images, tmp_path):
    networks = [build(model_type, number) for number, model_type in enumerate([*NETWORKS, "vit"])]
    ensemble = EnsembleForImageClassification.of(networks)
    logits = by_hand(networks, images)
    write_weights(ensemble, tmp_path)
    write_config(ensemble, tmp_path, FACTS)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    with torch.no_grad():
        assert torch.allclose(load_network(tmp_path, torch.device("cpu"))(images).double(), logits, atol=1e-6)


def test_config_contains_no_local_path(tmp_path):
    build("vit", 0).save_pretrained(tmp_path / "somebodys-home")
    named = ModelSettings(name=str(tmp_path / "somebodys-home"), pretrained=True)
    ensemble = EnsembleForImageClassification.of([build_model(named, SIZE), build("vit", 1)])
    write_config(ensemble, tmp_path, FACTS)
    assert "somebodys-home" not in (tmp_path / "config.json").read_text()


def test_adapters_are_merged_in_every_member(images):
    adapted = [apply_adapter(build("vit", seed), "lora", rank=2).eval() for seed in (1, 2)]
    with torch.no_grad():
        for network in adapted:
            for parameter in network.parameters():
                if parameter.requires_grad:  # a new adapter has no effect
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
    average = AveragedNetworks(adapted)
    with torch.no_grad():
        before = average(pixel_values=images).logits
        merged = merge_members(average)
        assert not any("lora" in name for name, _ in merged.named_parameters())
        assert torch.allclose(merged(images).logits, before, atol=1e-5)
    assert not any(isinstance(module, nn.Dropout) and module.training for module in merged.modules())
