"""Stochastic depth in every family: timm's rule, per image, and only in training."""

import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.models.regularization import drop_images
from roadwork.settings import ModelSettings
from roadwork.training.devices import checkpoint_gradients
from roadwork.training.lora.apply import apply_adapter

# Where the residual branches of a block end, in the order of a forward pass.
BRANCHES = {
    "vit": ["attention", "mlp"],
    "siglip": ["self_attn", "mlp"],
    "siglip2": ["self_attn", "mlp"],
    "resnet": ["layer"],
}
# DINOv3 scales its positions at random in training; Swin has its own drop path rate.
STEADY = {"dinov3_vit": {"pos_embed_rescale": None}, "swinv2": {"drop_path_rate": 0.0}}
SHARE, N_IMAGES = 0.4, 300


def build(family, drop_path=0.0, **fields):
    torch.manual_seed(0)
    config = ALL_NETWORKS[family] | STEADY.get(family, {}) | fields
    return build_model(ModelSettings(name=family, config=config, drop_path=drop_path), SIZE)


def watch_branches(network, family):
    """Records the output (B, ...) of each residual branch, by call."""
    seen = []
    for name, module in network.named_modules():
        # SigLIP's pooling head is no block, and ResNet adds to a branch's values in place.
        if ".head." not in name and name.rpartition(".")[2] in BRANCHES.get(family, ["drop_path"]):
            module.register_forward_hook(
                lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
            )
    return seen


@torch.no_grad()
def train_on_one_picture(network):
    torch.manual_seed(3)
    picture = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    return network.train()(pixel_values=picture.repeat(N_IMAGES, 1, 1, 1)).logits


def skipped(values):
    return values.flatten(1).eq(0).all(dim=1)


@pytest.mark.parametrize("family", ALL_NETWORKS)
def test_drop_path_skips_images_and_keeps_the_mean(family):
    plain, dropping = build(family), build(family, drop_path=SHARE)
    assert list(dropping.state_dict()) == list(plain.state_dict())
    expected, seen = watch_branches(plain, family), watch_branches(dropping, family)
    train_on_one_picture(plain)
    logits = train_on_one_picture(dropping)
    n_first = len(seen) // 2  # two blocks
    assert n_first >= 1
    for branch, reference in zip(seen[:n_first], expected[:n_first], strict=True):
        assert torch.equal(branch, reference)  # the first block is never skipped
    for branch in seen[n_first:]:
        assert float(skipped(branch).float().mean()) == pytest.approx(SHARE, abs=0.1)
    # All images are equal, so each branch returns the plain branch's values, rescaled, or zeros.
    branch, reference = seen[n_first], expected[n_first]
    torch.testing.assert_close(branch[~skipped(branch)] * (1 - SHARE), reference[~skipped(branch)])
    if len(seen) == 2 * n_first == 4:
        assert not torch.equal(skipped(seen[2]), skipped(seen[3]))  # branches are drawn independently
    assert len(logits.unique(dim=0)) > 1  # and the images' logits differ


@pytest.mark.parametrize("family", ALL_NETWORKS)
def test_drop_path_does_not_change_evaluation(family):
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = build(family).eval()(pixel_values=images).logits
        assert torch.equal(build(family, drop_path=0.9).eval()(pixel_values=images).logits, plain)


@pytest.mark.parametrize(
    ("family", "field", "blocks"),
    [
        ("vit", {"num_hidden_layers": 5}, 5),
        ("dinov2", {"num_hidden_layers": 5}, 5),
        ("convnextv2", {"depths": [2, 3]}, 5),
        ("swinv2", {"depths": [2, 3]}, 5),
    ],
)
def test_drop_path_rate_rises_linearly(family, field, blocks):
    """timm's rule is `torch.linspace(0, rate, sum(depths))`; transformers' DINOv2 uses the same rate in each block."""
    network = build(family, drop_path=0.8, **field)
    seen = watch_branches(network, family)
    train_on_one_picture(network)
    a_block = len(seen) // blocks
    shares = [float(skipped(branch).float().mean()) for branch in seen[::a_block]]
    assert shares == pytest.approx([0, 0.2, 0.4, 0.6, 0.8], abs=0.12)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7])
def test_drop_path_keeps_the_mean(share):
    values = torch.linspace(-2, 2, 5).repeat(40_000, 1)
    torch.manual_seed(0)
    drawn = drop_images(values, share)
    torch.testing.assert_close(drawn.mean(dim=0), values[0], atol=0.05, rtol=0)
    assert float(skipped(drawn).float().mean()) == pytest.approx(share, abs=0.01)


def test_checkpointing_repeats_the_skipped_branches():
    gradients = []
    for saving in (False, True):
        network = build("vit", drop_path=0.5)
        if saving:
            checkpoint_gradients(network)
        torch.manual_seed(2)
        network.train()(pixel_values=torch.ones(6, 3, SIZE, SIZE)).logits[:, 0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.requires_grad]))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_adapter_keeps_drop_path():
    network = build("vit", drop_path=SHARE)
    adapted = apply_adapter(network, "lora", rank=2)
    seen = watch_branches(network, "vit")
    train_on_one_picture(adapted)
    assert skipped(seen[-1]).any()


def test_two_drop_path_rates_are_rejected():
    with pytest.raises(ConfigError, match=r"model\.drop_path\b.*model\.config\.drop_path_rate"):
        build("dinov2", drop_path=0.1, drop_path_rate=0.1)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("vit", ALL_NETWORKS["vit"] | {"num_hidden_layers": 1}, "has one residual block"),
        ("mobilenet_v1", {"depth_multiplier": 0.25}, "no known residual blocks"),
    ],
)
def test_drop_path_without_effect_is_rejected(name, config, message):
    with pytest.raises(ConfigError, match=rf"model\.drop_path\b.*0\.1.*{name}.*{message}"):
        build_model(ModelSettings(name=name, config=config, drop_path=0.1), SIZE)
