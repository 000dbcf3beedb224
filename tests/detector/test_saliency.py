"""Saliency maps show where the evidence is, and depend on the network's weights."""

import functools

import numpy as np
import pytest
import torch
from fixtures.detectors import SIZE, TINY_NETWORKS, make_model_folder
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForImageClassification

from roadwork.core.errors import DataError
from roadwork.detector.networks import load_network
from roadwork.detector.saliency import _choose_features, _scale, gradient_map, occlusion_map, overlay

_LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "image_size": SIZE}
FAMILIES = {
    **{name: {"image_size": SIZE} | config for name, config in TINY_NETWORKS.items()},
    "dinov2_with_registers": {**_LAYERS, "mlp_ratio": 2, "num_register_tokens": 4},
    "siglip": {"vision_config": {**_LAYERS, "intermediate_size": 32}},
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": SIZE},
}
SQUARE = 8


def scenes(count, seed):
    """Noise (N, 3, S, S), half of it with a bright square, (N,) labels and (N, S, S) masks of the squares."""
    rng = np.random.default_rng(seed)
    pictures = rng.normal(0, 0.5, (count, 3, SIZE, SIZE)).astype(np.float32)
    labels, masks = np.arange(count) % 2, np.zeros((count, SIZE, SIZE), dtype=bool)
    for picture, mask in zip(pictures[1::2], masks[1::2], strict=True):
        y, x = SQUARE * rng.integers(0, SIZE // SQUARE, 2)
        picture[:, y : y + SQUARE, x : x + SQUARE] += 2.5
        mask[y : y + SQUARE, x : x + SQUARE] = True
    return torch.from_numpy(pictures), torch.from_numpy(labels), masks


@functools.cache
def trained(family):
    torch.manual_seed(0)
    network = AutoModelForImageClassification.from_config(
        AutoConfig.for_model(family, **FAMILIES[family], num_labels=2)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    pictures, labels, _ = scenes(256, seed=1)
    for step in range(120):
        batch = torch.arange(32) + 32 * step % 256
        loss = F.cross_entropy(network(pixel_values=pictures[batch]).logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def stretch(look):
    return F.interpolate(torch.from_numpy(look)[None, None], (SIZE, SIZE), mode="nearest")[0, 0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_saliency_finds_the_trained_object(family):
    network = trained(family)
    pictures, labels, masks = scenes(40, seed=2)
    assert (network(pixel_values=pictures).logits.argmax(dim=1) == labels).float().mean() > 0.6
    shares = []
    for picture, mask in zip(pictures[1::2], masks[1::2], strict=True):
        look = gradient_map(network, picture[None])
        assert look.dtype == np.float32
        assert 0 <= look.min() <= look.max() <= 1
        shares.append(stretch(look)[mask].sum() / stretch(look).sum())
    assert np.mean(shares) > 4 / 16  # its area is 1/16


@pytest.mark.parametrize("family", FAMILIES)
def test_saliency_depends_on_the_weights(family):
    """The sanity check of Adebayo et al., NeurIPS 2018: an unchanged map would show the image, not the network."""
    network, pictures = trained(family), scenes(20, seed=3)[0][1::2]
    torch.manual_seed(1)
    other = AutoModelForImageClassification.from_config(network.config).eval()
    pairs = [(gradient_map(network, picture[None]), gradient_map(other, picture[None])) for picture in pictures]
    likeness = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs if a.std() and b.std()]
    assert len(likeness) > 5
    assert np.mean(likeness) < 0.6


def test_weak_evidence_stays_weak():
    assert _scale(torch.tensor([[-4.0, 1.0], [0.0, 2.0]])).tolist() == [[0, 0.25], [0, 0.5]]
    assert _scale(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_occlusion_finds_the_square_without_gradients(family):
    network = trained(family)
    pictures, _, masks = scenes(20, seed=4)

    @torch.inference_mode()
    def plain(pixels):
        assert not pixels.requires_grad
        return network(pixel_values=pixels).logits

    for picture, mask in zip(pictures[1::2], masks[1::2], strict=True):
        look = occlusion_map(plain, picture[None], grid=4)
        assert look.shape == (4, 4)
        assert mask[tuple(SQUARE * np.array(np.unravel_index(look.argmax(), look.shape)))]


def test_saliency_works_in_inference_mode_without_side_effects():
    network = trained("resnet")
    network.requires_grad_(requires_grad=False)
    network.zero_grad()
    try:
        with torch.inference_mode():
            pixels = scenes(2, seed=5)[0][1:]
            inside = gradient_map(network, pixels * 1)
        assert np.array_equal(inside, gradient_map(network, pixels))
        assert all(weight.grad is None for weight in network.parameters())
    finally:
        network.requires_grad_()


@pytest.mark.parametrize(("sides", "chosen"), [((56, 56, 28, 14, 7), 14), ((24, 24, 12, 6, 3), 12), ((8, 8, 4), 8)])
def test_saliency_skips_layers_with_a_global_view(sides, chosen):
    states = tuple(torch.zeros(1, 2, side, side) for side in sides)
    assert _choose_features(states, "net").shape[-1] == chosen


def test_network_without_features_is_rejected():
    with pytest.raises(DataError, match="occlusion_map"):
        _choose_features(None, "net")


def test_saliency_of_an_exported_folder(tmp_path):
    folder = make_model_folder(tmp_path / "model", "vit")
    network = load_network(folder, torch.device("cpu"))
    assert gradient_map(network.module, torch.randn(1, 3, SIZE, SIZE)).shape == (4, 4)


def test_overlay_marks_only_salient_pixels():
    image = np.full((60, 90, 3), 100, dtype=np.uint8)
    look = np.zeros((3, 3), dtype=np.float32)
    assert np.array_equal(overlay(image, look), image)
    look[0, 2] = 1
    drawn = overlay(image, look)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn[5, 85, 0] > image[5, 85, 0] + 50
    assert drawn[5, 85, 2] < image[5, 85, 2] - 30
    assert np.array_equal(drawn[45:, :30], image[45:, :30])
