"""model.depth keeps the first blocks of a transformer, with weights or without."""

import re

import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE
from transformers import AutoModelForImageClassification

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings

DEEP = {"num_hidden_layers": 4}


def build(family, **settings):
    torch.manual_seed(0)
    return build_model(ModelSettings(name=family, config=ALL_NETWORKS[family] | DEEP, **settings), SIZE).eval()


def pictures():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def backbone_of(network):
    return next(child for child in network.children() if hasattr(child, "embeddings"))


@pytest.mark.parametrize("pooling", ["mean", "top_patches"])
@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers"])
def test_tokens_are_those_of_an_earlier_block(family, pooling, tmp_path):
    full = build(family)
    full.save_pretrained(tmp_path / "full")
    short = build_model(ModelSettings(name=str(tmp_path / "full"), pretrained=True, depth=3, pooling=pooling), SIZE)
    inner = backbone_of(full)
    with torch.no_grad():
        states = inner(pictures(), output_hidden_states=True).hidden_states
        tokens = short.eval().backbone(pictures()).last_hidden_state
        torch.testing.assert_close(tokens, inner.layernorm(states[3]))
        logits = short(pixel_values=pictures()).logits
    short.save_pretrained(tmp_path / "short")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "short").eval()
    with torch.no_grad():
        assert torch.equal(again(pixel_values=pictures()).logits, logits)


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov3_vit"])
def test_random_networks_have_that_many_blocks(family):
    def blocks(network):
        names = [re.search(r"layers?\.(\d+)\.", name) for name, _ in network.named_parameters()]
        return {match[1] for match in names if match}

    assert len(blocks(build(family))) == 4
    assert len(blocks(build(family, depth=2))) == 2


@pytest.mark.parametrize(("family", "depth"), [("vit", 5), ("resnet", 1), ("swinv2", 1)])
def test_a_depth_that_the_network_lacks_is_refused(family, depth):
    with pytest.raises(ConfigError, match=rf"model\.depth is {depth}.*{family}"):
        build_model(
            ModelSettings(name=family, config=ALL_NETWORKS[family] | (DEEP if family == "vit" else {}), depth=depth),
            SIZE,
        )
