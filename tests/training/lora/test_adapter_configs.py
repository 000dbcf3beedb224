"""The five configurations without arguments, on networks of both namings."""

import re

import pytest
import torch
from peft import get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings
from roadwork.training.lora.adalora_config import create_adalora_config, stretch_schedule
from roadwork.training.lora.ia3_config import create_ia3_config
from roadwork.training.lora.lora_config import create_dora_config, create_lora_config
from roadwork.training.lora.targets import LINEAR_PATTERN
from roadwork.training.lora.vera_config import create_vera_config

# peft 0.21 asks transformers 5.23 for a name that it deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CREATORS = {
    "lora": create_lora_config,
    "dora": create_dora_config,
    "adalora": create_adalora_config,
    "vera": create_vera_config,
    "ia3": create_ia3_config,
}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}


class OldAttention(nn.Module):
    """transformers 4's names: `attention.attention.query`, `attention.output.dense`."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(16, 16) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(16, 16)})

    def forward(self, x):
        query, key, value = (self.attention[name](x) for name in ("query", "key", "value"))
        return self.output["dense"](torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value)


class OldViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = OldAttention()
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(16, 32)})
        self.output = nn.ModuleDict({"dense": nn.Linear(32, 16)})
        self.classifier = nn.Linear(16, 2)

    def forward(self, pixel_values):
        x = pixel_values.flatten(1).view(len(pixel_values), -1, 16)
        x = x + self.attention(x)
        x = x + self.output["dense"](torch.relu(self.intermediate["dense"](x)))
        return self.classifier(x.mean(1))


def network(name):
    torch.manual_seed(0)
    if name == "old naming":
        return OldViT()
    return build_model(ModelSettings(name=name, config=TINY), img_size=28)


def logits_of(model, images):
    output = model(pixel_values=images)
    return output if isinstance(output, torch.Tensor) else output.logits


@pytest.mark.parametrize("name", ["vit", "dinov2", "old naming"])
@pytest.mark.parametrize("adapter", CREATORS)
def test_default_config_adapts_every_block_and_trains_the_head(adapter, name):
    model = get_peft_model(network(name), CREATORS[adapter]())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    heads = {n for n in trained if "classifier.modules_to_save.default" in n}
    assert len(heads) == 2
    assert all(re.search("lora_|vera_lambda_|ia3_", n) for n in trained - heads)
    layers = 1 if name == "old naming" else 2
    adapted = 3 if adapter == "ia3" else 6
    wrapped = [n for n, m in model.named_modules() if hasattr(m, "base_layer")]
    assert len(wrapped) == layers * adapted
    images = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
    # Two steps: LoRA's A and AdaLoRA's A and B get a gradient only after the other factor is nonzero.
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        cross_entropy(logits_of(model, images), torch.tensor([0, 1])).backward()
        optimizer.step()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert without == []


def test_pattern_excludes_classifier_and_poolers():
    for name in (
        "classifier",
        "classifier.dense",
        "vit.pooler.output.dense",
        "vision_model.head.mlp.fc1",
        "encoder.blocks.0.attention.self.continuous_position_bias_mlp.0",
        "layers.0.layer_norm_query",
    ):
        assert re.fullmatch(LINEAR_PATTERN, name) is None
    for name in ("query", "vit.layers.0.attention.q_proj", "vision_model.encoder.layers.0.self_attn.out_proj"):
        assert re.fullmatch(LINEAR_PATTERN, name)


@pytest.mark.parametrize("total_step", [2, 3, 4, 5, 10, 11, 100, 100_000])
def test_adalora_schedule_scales_with_the_run(total_step):
    config = create_adalora_config(total_step=total_step)
    assert config.total_step == total_step
    assert config.tinit >= 1
    assert config.tfinal == 3 * total_step // 10
    assert config.tinit + config.tfinal < total_step


@pytest.mark.parametrize(("total_step", "phases"), [(10, (1, 3)), (100, (10, 30)), (2, (1, 0)), (4000, (400, 1200))])
def test_schedule_stretches_to_the_run(total_step, phases):
    config = create_adalora_config(total_step=1000)
    stretch_schedule(config, total_step)
    assert (config.total_step, config.tinit, config.tfinal) == (total_step, *phases)


@pytest.mark.parametrize("total_step", range(2, 12))
def test_stretched_schedule_has_a_pruning_step(total_step):
    config = create_adalora_config(total_step=1000, tinit=500, tfinal=499)
    stretch_schedule(config, total_step)
    assert config.tinit >= 1
    assert config.tfinal >= 0
    assert config.tinit + config.tfinal < total_step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_step": 1}, r"\b1 optimizer step"),
        ({"total_step": 10, "tinit": 6, "tfinal": 4}, r"total_step=10"),
        ({"total_step": 10, "tinit": 0, "tfinal": 9}, r"tinit=0\b.*\b1\b"),
        ({"rank": 8, "init_rank": 8}, r"init_rank=8"),
    ],
)
def test_schedule_without_pruning_is_an_error(arguments, message):
    with pytest.raises(ConfigError, match=message):
        create_adalora_config(**arguments)


def test_ia3_scales_inputs_of_the_second_feedforward_layer_only():
    model = get_peft_model(network("vit"), create_ia3_config())
    is_feedforward = {
        n.rsplit(".", 1)[-1]: m.is_feedforward for n, m in model.named_modules() if hasattr(m, "base_layer")
    }
    assert is_feedforward == {"k_proj": False, "v_proj": False, "fc2": True}
