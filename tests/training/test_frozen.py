"""A frozen backbone does not change: no gradients, no dropout, no BatchNorm statistics."""

import pytest
import torch
from torch import nn

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.models.head import find_head
from roadwork.settings import ModelSettings, TrainingSettings
from roadwork.training.module import RoadworkClassifier

TINY = {
    "vit": {
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8,
        "hidden_dropout_prob": 0.5,
    },
    "dinov2": {
        "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "drop_path_rate": 0.5,
    },
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnextv2": {"hidden_sizes": [4, 4, 4, 6], "depths": [1, 1, 1, 1], "drop_path_rate": 0.5},
}  # fmt: skip


def frozen(name, **settings):
    torch.manual_seed(0)
    network = build_model(ModelSettings(name=name, config=TINY[name]), 32)
    return RoadworkClassifier(network, TrainingSettings(freeze_backbone=True, **settings))


def in_training(module):
    module.on_train_start()  # as Lightning calls it
    return module


@pytest.mark.parametrize("name", TINY)
def test_only_the_head_is_trainable_and_in_training_mode(name):
    module = in_training(frozen(name))
    head = f"{find_head(module.model)}."
    names = {n for n, p in module.model.named_parameters() if p.requires_grad}
    assert names == {n for n, _ in module.model.named_parameters() if n.startswith(head)} != set()
    modes = {n: m.training for n, m in module.model.named_modules() if n}
    assert {n for n, training in modes.items() if training} == {n for n in modes if f"{n}.".startswith(head)}


@pytest.mark.parametrize("name", TINY)
def test_step_changes_only_the_head(name):
    module = in_training(frozen(name))
    before = {n: tensor.clone() for n, tensor in module.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=1.0)
    batch = {"image": torch.rand(6, 3, 32, 32), "label": torch.tensor([0, 1, 0, 1, 1, 1])}
    nn.functional.cross_entropy(module.logits_of(batch), batch["label"]).backward()
    optimizer.step()
    moved = {n for n, tensor in module.model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert moved == {n for n in before if n.startswith(find_head(module.model))}


@pytest.mark.parametrize("name", TINY)
def test_frozen_backbone_records_no_graph_and_no_dropout(name):
    module = in_training(frozen(name))
    given = []
    head = module.model.get_submodule(find_head(module.model))
    head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    images = torch.rand(4, 3, 32, 32)
    first, second = module(images), module(images)
    assert not given[0].requires_grad
    assert torch.equal(first, second)
    assert first.requires_grad


def test_eval_sets_every_module_to_evaluation_mode():
    module = in_training(frozen("resnet"))
    module.eval()
    assert not any(part.training for part in module.modules())
    module.train()
    assert module.model.classifier.training
    assert not module.model.resnet.training


def test_features_bypass_the_backbone():
    module = frozen("resnet")
    module.model.resnet.forward = None  # calling it would fail
    features = torch.rand(3, 16)
    expected = features @ module.model.classifier[1].weight.T + module.model.classifier[1].bias
    torch.testing.assert_close(module.logits_of({"features": features}), expected)


def test_network_in_eval_mode_is_put_in_training_mode():
    """Pretrained networks are loaded in evaluation mode."""
    network = build_model(ModelSettings(name="resnet", config=TINY["resnet"]), 32).eval()
    module = RoadworkClassifier(network, TrainingSettings())
    assert all(part.training for part in module.modules())
    assert all(p.requires_grad for p in module.parameters())


def test_network_without_a_head_is_an_error():
    with pytest.raises(ConfigError, match=r"Sequential.*head"):
        RoadworkClassifier(nn.Sequential(nn.Linear(2, 2)), TrainingSettings(freeze_backbone=True))
