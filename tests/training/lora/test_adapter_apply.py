"""Adapters in complete networks: trained parameters, learning, saving and merging."""

import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.settings import ADAPTERS as SETTING
from roadwork.settings import ModelSettings, TrainingSettings
from roadwork.training.devices import checkpoint_gradients
from roadwork.training.lora.apply import ADAPTERS, adapt_network, apply_adapter, merge_adapter
from roadwork.training.lora.targets import IA3_PATTERN, adapter_summary, group_targets, resolve_targets

# peft's `from_pretrained` reads a name that transformers 5.23 deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TINY_VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
STAGES = {"hidden_sizes": [8, 8], "depths": [1, 1]}
NETWORKS = {
    "vit": TINY_VIT | {"intermediate_size": 32},
    "dinov2": TINY_VIT,
    "siglip": {
        "vision_config": TINY_VIT | {"intermediate_size": 32},
        "text_config": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8},
    },
    "convnextv2": {**STAGES, "num_stages": 2},
    "swinv2": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 7},
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
}
ADAPTED = [
    (network, adapter) for network in NETWORKS for adapter in ADAPTERS if (network, adapter) != ("resnet", "vera")
]
VIT_S14 = Path(__file__).parents[3] / "../shared/models/vit-s14"


def build(name):
    torch.manual_seed(0)
    return build_model(ModelSettings(name=name, config=NETWORKS[name]), img_size=28)


def adapted(name, adapter):
    return adapt_network(build(name), TrainingSettings(adapter=adapter, adapter_rank=4))


def toy_batch(size=28):
    """Dark and bright images with a little noise, linearly separable in colour space."""
    labels = torch.tensor([0, 1] * 4)
    noise = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1))
    return noise * 0.3 + (labels * 2.0 - 1).view(-1, 1, 1, 1), labels


def train(model, steps, lr=0.02):
    images, labels = toy_batch()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = cross_entropy(model(pixel_values=images).logits, labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def logits(model, size=28):
    return model.eval()(pixel_values=toy_batch(size)[0]).logits


def test_settings_and_registry_have_the_same_adapters():
    assert set(SETTING) == {"none", *ADAPTERS}


def test_adapter_none_leaves_the_network_unchanged():
    model = build("vit")
    assert apply_adapter(model, "none") is model
    assert merge_adapter(model) is model
    assert adapter_summary(model).trainable == adapter_summary(model).total
    assert adapter_summary(model).targets == []


@pytest.mark.parametrize(("name", "adapter"), ADAPTED)
def test_only_adapter_and_head_train_and_merging_keeps_logits(name, adapter):
    model = adapted(name, adapter)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert all(
        re.search(r"lora_[ABE]|lora_magnitude|vera_lambda|ia3_l|classifier(\.1)?\.modules_to_save", n) for n in trained
    )
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = train(model.train(), steps=8)
    assert losses[-1] < losses[0] * 0.9
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # Every part learns: the head, and each adapted layer.
    assert changed <= set(trained)
    assert {n for n in changed if "classifier" in n}
    for target in adapter_summary(model).targets:
        assert any(target in n for n in changed), target
    expected = logits(model)
    merged = merge_adapter(model)
    assert not any(re.search("lora|vera|ia3", n) for n, _ in merged.named_modules())
    assert (logits(merged) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "adapter"), [pair for pair in ADAPTED if pair[0] in ("vit", "dinov2")])
def test_saved_adapter_gives_the_same_logits(tmp_path, name, adapter):
    model = adapted(name, adapter)
    train(model, steps=3)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    # The same base with another head, which the saved one must replace.
    base = build(name)
    torch.nn.init.ones_(base.classifier.weight)
    assert torch.equal(logits(PeftModel.from_pretrained(base, tmp_path)), expected)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("adapter", ["lora", "dora", "adalora", "ia3"])
def test_peft_adapts_the_resolved_layers(name, adapter):
    targets = resolve_targets(build(name))
    expected = targets.attention + targets.feedforward + targets.convolutions
    if adapter == "ia3" and not targets.convolutions:
        expected = [n for n in expected if re.fullmatch(IA3_PATTERN, n)]
    summary = adapter_summary(adapted(name, adapter))
    assert sorted(summary.targets) == sorted(expected)
    assert 0 < summary.trainable < summary.total


def test_rank_reaches_lora_and_adalora():
    assert build_config("lora").r == build_config("dora").r == 4
    assert build_config("adalora").target_r == 4
    assert build_config("vera").r == 256


def build_config(adapter):
    return adapted("vit", adapter).peft_config["default"]


def test_dora_trains_a_magnitude_for_each_output_of_each_layer():
    """Before training DoRA equals the network: the magnitudes are the norms of the weights' rows."""
    plain, model = build("vit"), adapted("vit", "dora")
    assert build_config("dora").use_dora
    assert not build_config("lora").use_dora
    magnitudes = {n: p for n, p in model.named_parameters() if "magnitude" in n}
    assert len(magnitudes) == len(adapter_summary(model).targets) == 12
    for name, magnitude in magnitudes.items():
        target = name.removeprefix("base_model.model.").partition(".lora_magnitude")[0]
        torch.testing.assert_close(magnitude, plain.get_submodule(target).weight.norm(dim=1))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_bf16_steps_with_gradient_checkpointing(adapter):
    """Frozen weights do not change, and gradients equal those without checkpointing."""
    gradients = []
    for is_checkpointed in (False, True):
        model = build("vit")
        if is_checkpointed:
            checkpoint_gradients(model)
        model = adapt_network(model, TrainingSettings(adapter=adapter, adapter_rank=4)).train()
        before = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
        images, labels = toy_batch()
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(pixel_values=images).logits.float(), labels)
            loss.backward()
            optimizer.step()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert {p.dtype for p in trained.values()} == {torch.float32}
        assert all(torch.isfinite(p.grad).all() for p in trained.values())
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters() if n in before)
        gradients.append({n: p.grad for n, p in trained.items()})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_summary_of_a_run():
    model = adapted("vit", "dora")
    summary = adapter_summary(model)
    assert str(summary) == (
        f"trains {summary.trainable:,} of {summary.total:,} parameters ({100 * summary.trainable / summary.total:.3g} "
        "%): dora on q_proj, k_proj, v_proj, o_proj, fc1, fc2 in 2 blocks: 12 layers, and the head"
    )
    assert str(adapter_summary(build("vit"))).endswith("(100 %), without an adapter")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([f"vit.layers.{i}.{n}" for i in range(12) for n in ("a.query", "fc1")], "query, fc1 in 12 blocks: 24 layers"),
        (["embedder.convolution", "stages.0.layers.0.convolution"], "convolution: 2 layers"),
        ([f"stages.{s}.layers.{i}.pwconv{j}" for s in (0, 1) for i in (0, 1) for j in (1, 2)],
         "pwconv1, pwconv2 in 4 blocks: 8 layers"),
    ],
)  # fmt: skip
def test_target_names_are_shortened(targets, expected):
    assert group_targets(targets) == expected


def test_vera_on_a_resnet_is_an_error():
    with pytest.raises(ConfigError, match=r"training\.adapter=lora, dora, adalora, ia3 or none"):
        adapted("resnet", "vera")


def test_unknown_adapter_is_an_error():
    with pytest.raises(ConfigError, match=r"'qlora'.*none, lora, dora, adalora, vera, ia3"):
        adapted("vit", "qlora")


def test_pretrained_backbone_learns_and_merges():
    if not VIT_S14.is_dir():
        pytest.skip("shared/models/vit-s14 is not beside this checkout")
    torch.manual_seed(0)
    model = build_model(ModelSettings(name=str(VIT_S14), pretrained=True), img_size=28)
    model = apply_adapter(model, "lora", rank=4)
    losses = train(model, steps=4, lr=1e-3)
    assert losses[-1] < losses[0]
    expected = logits(model)
    assert (logits(merge_adapter(model)) - expected).abs().max() < 1e-5


def test_options_reach_the_configuration():
    model = apply_adapter(
        build("vit"), "adalora", rank=2, alpha=6.0, dropout=0.25, init_rank=5, tinit=3, tfinal=7, targets=["q_proj"]
    )
    config = model.peft_config["default"]
    assert (config.target_r, config.init_r, config.lora_alpha, config.lora_dropout) == (2, 5, 6.0, 0.25)
    assert (config.tinit, config.tfinal) == (3, 7)
    assert all(name.endswith("q_proj") for name in adapter_summary(model).targets)


def test_null_options_are_the_defaults():
    model = apply_adapter(build("vit"), "vera", rank=None, dropout=None, targets=None)
    assert model.peft_config["default"].r == 256


@pytest.mark.parametrize(("adapter", "option"), [("ia3", "rank"), ("vera", "alpha"), ("lora", "tinit")])
def test_unknown_adapter_option_is_an_error(adapter, option):
    with pytest.raises(ConfigError, match=rf"{adapter}.*\b{option}\b.*\b4\b"):
        apply_adapter(build("vit"), adapter, **{option: 4})


def test_targets_without_match_are_an_error():
    with pytest.raises(ConfigError, match=r"training\.adapter_targets.*no_such_layer"):
        apply_adapter(build("vit"), "lora", targets=["no_such_layer"])


def test_ia3_targets_take_effect():
    model = apply_adapter(build("vit"), "ia3", targets=["k_proj", "fc2"])
    assert {name.rpartition(".")[2] for name in adapter_summary(model).targets} == {"k_proj", "fc2"}
