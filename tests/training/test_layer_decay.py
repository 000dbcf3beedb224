"""Layer-wise learning rates of each family match hand-written lists."""

import pytest
import torch
from torch import nn

from roadwork.config import to_settings
from roadwork.core.errors import ConfigError
from roadwork.data.datamodule import NATIXDataModule
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings, TrainingSettings
from roadwork.training.lora.apply import adapt_network, apply_adapter
from roadwork.training.optim import build_optimizer, parameter_depths
from roadwork.training.trainers.base_trainer import BaseTrainer

ATTENTION = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8}
NETWORKS = {
    "vit": {**ATTENTION, "intermediate_size": 16},
    "dinov2": {**ATTENTION, "mlp_ratio": 2},
    "convnextv2": {"hidden_sizes": [4, 8], "depths": [1, 2], "num_stages": 2},
    "swin": {"embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
}
# Of each network the beginnings of its parameters' names, from the embeddings to the head.
DEPTHS = {
    "vit": [["vit.embeddings."], ["vit.layers.0."], ["vit.layers.1."], ["vit.layers.2."], ["vit.layernorm", "classif"]],
    "dinov2": [
        ["dinov2.embeddings."],
        *([f"dinov2.encoder.layer.{block}."] for block in range(3)),
        ["dinov2.layernorm", "classifier"],
    ],
    "convnextv2": [
        ["convnextv2.embeddings."],
        ["convnextv2.encoder.stages.0.layers.0."],
        ["convnextv2.encoder.stages.1.downsampling_layer.", "convnextv2.encoder.stages.1.layers.0."],
        ["convnextv2.encoder.stages.1.layers.1."],
        ["convnextv2.layernorm", "classifier"],
    ],
    "swin": [
        ["swin.embeddings."],
        ["swin.encoder.layers.0.blocks.0.", "swin.encoder.layers.0.downsample."],
        ["swin.encoder.layers.1.blocks.0."],
        ["swin.encoder.layers.1.blocks.1."],
        ["swin.layernorm", "classifier"],
    ],
    "resnet": [
        ["resnet.embedder."],
        ["resnet.encoder.stages.0.layers.0."],
        ["resnet.encoder.stages.1.layers.0."],
        ["resnet.encoder.stages.1.layers.1."],
        ["classifier"],
    ],
}


def build(name):
    torch.manual_seed(0)
    return build_model(ModelSettings(name=name, config=NETWORKS[name]), 32)


def rates_of(network, layer_decay, weight_decay=0.05):
    """Learning rate and weight decay of each trainable parameter, by its name."""
    optimizer = build_optimizer(network, 0.1, weight_decay, layer_decay=layer_decay)
    names = {id(p): name for name, p in network.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}, groups


@pytest.mark.parametrize("name", NETWORKS)
def test_learning_rate_halves_per_layer(name):
    network = build(name)
    rates, groups = rates_of(network, 0.5)
    before = {n: decay for n, (_, decay) in rates_of(build(name), 1.0)[0].items()}
    expected = {
        n: pytest.approx(0.1 * 0.5 ** (4 - depth))
        for depth, starts in enumerate(DEPTHS[name])
        for n in before
        if n.startswith(tuple(starts))
    }
    assert {n: lr for n, (lr, _) in rates.items()} == expected
    assert {n: decay for n, (_, decay) in rates.items()} == before
    assert len(groups) <= 2 * 5
    assert groups[0]["lr"] == 0.1
    assert groups[0]["name"] == "head"


@pytest.mark.parametrize("adapter", ["lora", "vera", "ia3", "adalora"])
def test_adapter_has_the_learning_rate_of_its_block(adapter):
    network = adapt_network(build("dinov2"), TrainingSettings(adapter=adapter, adapter_rank=2))
    rates, _ = rates_of(network, 0.5)
    found = {}
    for name, (lr, _) in rates.items():
        block = name.split("encoder.layer.")[1][0] if "encoder.layer." in name else "head"
        found.setdefault(block, set()).add(lr)
    assert found == {"head": {0.1}, "2": {0.05}, "1": {0.025}, "0": {0.0125}}
    assert all("classifier" in name for name, (lr, _) in rates.items() if lr == 0.1)


def test_convolution_adapters_have_the_rate_of_their_block():
    network = apply_adapter(build("resnet"), "lora", rank=2)
    rates, groups = rates_of(network, 0.5)
    prefixes = [f"base_model.model.{starts[0]}" for starts in DEPTHS["resnet"]]
    assert {name: lr for name, (lr, _) in rates.items()} == {
        name: 0.1 * 0.5 ** (4 - next(d for d, start in enumerate(prefixes) if name.startswith(start))) for name in rates
    }
    assert groups[-1]["name"] == "embeddings"


def test_group_names_are_unique_without_weight_decay():
    _, groups = rates_of(build("vit"), 0.5, weight_decay=0.0)
    assert len({group["name"] for group in groups}) == len(groups)


def test_unknown_layer_names_are_an_error():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"Sequential.*0\.weight.*layer_decay=1"):
        parameter_depths(network)
    assert len(build_optimizer(network, 0.1, 0.0).param_groups) == 2


def test_log_shows_the_range_of_learning_rates(tiny_config, caplog):
    cfg = tiny_config("training.layer_decay=0.5", "training.lr=0.01", "training.warmup=0")
    trainer = BaseTrainer(cfg, build_model(to_settings(cfg).model, 32))
    with caplog.at_level("INFO", logger="roadwork"):
        folder = trainer.fit(NATIXDataModule(cfg))
    assert "0.0013 (embeddings) to 0.01 (head), in 8 groups" in caplog.text
    line = (folder / "metrics.jsonl").read_text()
    seen = trainer.trainer.optimizers[0].param_groups
    assert f'"lr": {seen[0]["lr"]}' in line
    assert [g["initial_lr"] for g in seen] == [0.01] * 2 + [0.005] * 2 + [0.0025] * 2 + [0.00125] * 2
