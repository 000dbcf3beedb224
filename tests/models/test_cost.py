"""FLOPs and memory on the meta device equal those of the real network, and of hand-computed formulas."""

import pytest
import torch
from fixtures.detectors import SIZE, TINY_NETWORKS

from roadwork.models.build import build_model
from roadwork.models.cost import (
    build_without_weights,
    bytes_per_image,
    forward_flops,
    kept_bytes,
    prediction_bytes,
    state_bytes,
    training_bytes,
    weight_bytes,
)
from roadwork.settings import ModelSettings


def settings(model_type, attention="auto"):
    return ModelSettings(name=model_type, config=TINY_NETWORKS[model_type], attention=attention)


@pytest.fixture(params=["resnet", "vit", "dinov2", "convnextv2"])
def pair(request):
    """A real network, and the same network on the meta device."""
    is_transformer = "num_attention_heads" in TINY_NETWORKS[request.param]
    # torch does not count fused attention on a CPU.
    model = settings(request.param, "eager" if is_transformer else "auto")
    return build_model(model, SIZE), build_without_weights(model, SIZE)


def test_meta_device_cost_equals_real_cost(pair):
    real, meta = pair
    assert {p.device.type for p in meta.parameters()} == {"meta"}
    assert [(name, p.shape, p.requires_grad) for name, p in meta.named_parameters()] == [
        (name, p.shape, p.requires_grad) for name, p in real.named_parameters()
    ]
    assert forward_flops(meta, SIZE) == forward_flops(real, SIZE) > 0
    assert weight_bytes(meta) == weight_bytes(real)
    for use_ema in (True, False):
        assert state_bytes(meta, use_ema=use_ema) == state_bytes(real, use_ema=use_ema)
    assert training_bytes(meta.train(), SIZE, 8, use_ema=True) == training_bytes(real.train(), SIZE, 8, use_ema=True)
    assert prediction_bytes(meta, SIZE, 8) == prediction_bytes(real, SIZE, 8)


def test_vit_flops_match_the_formula():
    size, hidden, inner, layers, patch = SIZE, 16, 32, 2, 8
    patches = (size // patch) ** 2
    tokens = patches + 1
    multiply_adds = patches * 3 * patch**2 * hidden  # the patches' embedding
    multiply_adds += layers * tokens * (4 * hidden**2 + 2 * hidden * inner)  # attention's projections, feed-forward
    multiply_adds += layers * 2 * tokens**2 * hidden  # scores, and their sum over values
    multiply_adds += hidden * 2  # the head
    assert forward_flops(build_without_weights(settings("vit"), SIZE), SIZE) == 2 * multiply_adds


def test_memory_is_weights_state_and_activations():
    network = build_without_weights(settings("resnet"), SIZE).train()
    parameters = 4 * sum(p.numel() for p in network.parameters())
    assert weight_bytes(network) == parameters + sum(b.nbytes for b in network.buffers())
    assert state_bytes(network, use_ema=True) == 4 * parameters
    few, many = (training_bytes(network, SIZE, batch, use_ema=True) for batch in (8, 24))
    a_row = (many - few) / 16
    assert few == pytest.approx(weight_bytes(network) + 4 * parameters + 8 * a_row, abs=8)
    images = torch.zeros(4, 3, SIZE, SIZE, device="meta")
    whole = kept_bytes(lambda: network(pixel_values=images).logits)
    assert whole / 4 * 0.8 < a_row < whole / 4 * 3


def test_frozen_layers_need_no_state_or_activations():
    network = build_without_weights(settings("vit"), SIZE).train()
    whole = training_bytes(network, SIZE, 8, use_ema=True)
    network.requires_grad_(requires_grad=False)
    network.classifier.requires_grad_()
    head = 4 * (16 * 2 + 2)
    assert state_bytes(network, use_ema=False) == 3 * head
    frozen = training_bytes(network, SIZE, 8, use_ema=True)
    assert prediction_bytes(network, SIZE, 8) < frozen < 0.6 * whole


def test_temporary_images_are_counted():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 2))
    # Per image: the layer's saved input, four times the flattened image, and four images.
    assert bytes_per_image(lambda n: network(torch.zeros(n, 3, 4, 4)), network, 4) == 4 * 48 * (1 + 4 + 4)
