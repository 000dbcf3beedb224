"""Adapter targets are found under the layer names of each architecture and library."""

import pytest
from torch import nn

from roadwork.core.errors import ConfigError
from roadwork.training.lora.targets import resolve_targets

ATTENTION = {
    "transformers 5": ["attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"],
    "transformers 4": [f"attention.attention.{n}" for n in ("query", "key", "value")] + ["attention.output.dense"],
    "siglip": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"],
    "swin": [f"attention.self.{n}" for n in ("query", "key", "value")] + ["attention.output.dense"],
    "timm": ["attn.qkv", "attn.proj"],
}
FEEDFORWARD = {
    "transformers 5": ["mlp.fc1", "mlp.fc2"],
    "transformers 4": ["intermediate.dense", "output.dense"],
    "dinov3": ["mlp.up_proj", "mlp.down_proj"],
    "dinov3 gated": ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"],
    "convnext": ["pwconv1", "pwconv2"],
    "dinov3 convnext": ["pointwise_conv1", "pointwise_conv2"],
    "dinov2 giant": ["mlp.weights_in", "mlp.weights_out"],
}


def model_with(names, leaf=lambda: nn.Linear(2, 2)):
    """A module whose submodules have these dotted names."""
    root = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        at = root
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        at.add_module(last, leaf())
    return root


@pytest.mark.parametrize("names", ATTENTION.values(), ids=ATTENTION)
def test_attention_layers(names):
    names = [f"backbone.layers.0.{n}" for n in names]
    targets = resolve_targets(model_with([*names, "backbone.layers.0.position_mlp", "classifier"]))
    assert sorted(targets.attention) == sorted(names)
    assert targets.feedforward == []


@pytest.mark.parametrize("names", FEEDFORWARD.values(), ids=FEEDFORWARD)
def test_feedforward_layers(names):
    names = [f"backbone.layers.0.{n}" for n in names]
    targets = resolve_targets(model_with([*names, "backbone.layers.0.reduction", "classifier"]))
    assert sorted(targets.feedforward) == sorted(names)
    assert targets.attention == []


@pytest.mark.parametrize("head", ["classifier", "head", "score", "fc"])
def test_head_is_found_and_is_no_target(head):
    targets = resolve_targets(model_with(["layer.fc1", f"{head}.dense", f"{head}.output.dense"]))
    assert targets.head == head
    assert targets.feedforward == ["layer.fc1"]


def test_head_with_one_layer_resolves_to_that_layer():
    model = model_with(["layer.fc1"])
    model.classifier = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    assert resolve_targets(model).head == "classifier.1"


def test_convolutions_are_targets_without_linear_layers():
    model = model_with(["stem", "stage.0", "classifier.conv"], leaf=lambda: nn.Conv2d(2, 2, 1))
    model.add_module("depthwise", nn.Conv2d(2, 2, 3, groups=2))
    assert resolve_targets(model).convolutions == ["stem", "stage.0"]
    model.add_module("fc1", nn.Linear(2, 2))
    assert resolve_targets(model).convolutions == []


def test_no_known_layer_is_an_error_with_layer_names():
    with pytest.raises(ConfigError, match="mixer, classifier"):
        resolve_targets(model_with(["mixer", "classifier"]))


def test_missing_head_is_an_error_with_module_names():
    with pytest.raises(ConfigError, match=r"backbone.*classifier"):
        resolve_targets(model_with(["backbone.fc1"]))
