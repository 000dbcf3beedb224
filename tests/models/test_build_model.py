"""Networks from a type, a folder or a name, at any image size, and the errors."""

import logging
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageClassification

from roadwork.core.errors import ConfigError
from roadwork.models.build import build_model
from roadwork.settings import ModelSettings

CHECKOUT = Path(__file__).parents[2]
VIT_S14 = CHECKOUT / "../shared/models/vit-s14"
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
RESNET = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "layer_type": "basic"}


def logits(model, size):
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(pixel_values=images).logits


@pytest.fixture
def stored(tmp_path):
    """A published checkpoint of this type, for 56 pixels and three classes."""

    def make(model_type):
        torch.manual_seed(0)
        fields = RESNET if model_type == "resnet" else TINY | {"image_size": 56}
        network = AutoModelForImageClassification.from_config(
            AutoConfig.for_model(model_type, num_labels=3, problem_type="single_label_classification", **fields)
        )
        network.half().save_pretrained(tmp_path / model_type)
        return tmp_path / model_type, network.float()

    return make


@pytest.mark.parametrize("size", [64, 96])
def test_model_type_is_built_with_its_fields(size):
    model = build_model(ModelSettings(name="resnet", config=RESNET), size)
    assert model.config.hidden_sizes == [8, 8]
    assert logits(model, size).shape == (2, 2)
    assert model.config.id2label == {0: "None", 1: "Roadwork"}
    assert model.config.label2id == {"None": 0, "Roadwork": 1}
    assert model.config.num_labels == 2
    assert model.config.problem_type is None


@pytest.mark.parametrize(
    ("model_type", "fields", "unused"),
    [
        ("dinov2", TINY, {"dinov2.embeddings.mask_token"}),
        ("clip", {"vision_config": TINY}, {f"vision_model.post_layernorm.{kind}" for kind in ("weight", "bias")}),
        ("resnet", RESNET, set()),
    ],
)
def test_unused_parameters_are_frozen(model_type, fields, unused):
    """All other parameters get a gradient in training mode, and the BatchNorm statistics are unchanged."""
    model = build_model(ModelSettings(name=model_type, config=fields), 28)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == unused
    assert model.training
    assert all(not buffer.any() for name, buffer in model.named_buffers() if name.endswith("running_mean"))
    model(pixel_values=torch.rand(4, 3, 28, 28)).logits[:, 0].sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None} == unused


def test_model_type_in_config_replaces_a_hub_name():
    model = build_model(
        ModelSettings(name="facebook/dinov2-base", pretrained=False, config={"model_type": "dinov2", **TINY}), 28
    )
    assert model.config.model_type == "dinov2"
    assert model.config.image_size == 28
    assert logits(model, 28).shape == (2, 2)


@pytest.mark.parametrize("path", sorted((CHECKOUT / "configs/model").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_build_offline(path):
    settings = OmegaConf.merge(OmegaConf.structured(ModelSettings), OmegaConf.load(path), {"pretrained": False})
    with torch.device("meta"):
        model = build_model(OmegaConf.to_object(settings), 224)
    assert model.config.num_labels == 2


def test_random_weights_follow_torchs_seed():
    settings = ModelSettings(name="vit", config=TINY)
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(torch.cat([p.flatten() for p in build_model(settings, 28).parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("model_type", ["vit", "dinov2", "resnet"])
def test_folder_weights_load_as_float32_with_a_new_head(stored, model_type, caplog):
    folder, original = stored(model_type)
    with caplog.at_level(logging.INFO):
        model = build_model(ModelSettings(name=str(folder), pretrained=True), 56)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert "initialised" in caplog.text
    assert "classifier" in caplog.text
    before, after = original.state_dict(), model.state_dict()
    for name, value in after.items():
        if not name.startswith("classifier"):
            torch.testing.assert_close(value, before[name].to(value.dtype))
    assert logits(model, 56).shape == (2, 2)
    assert model.config.problem_type is None


def test_pretrained_false_ignores_folder_weights(stored):
    folder, original = stored("vit")
    model = build_model(ModelSettings(name=str(folder), pretrained=False), 28)
    assert model.config.hidden_size == 16
    name = "vit.layers.0.attention.q_proj.weight"
    assert not torch.equal(model.state_dict()[name], original.state_dict()[name])


@pytest.mark.parametrize(("model_type", "size"), [("vit", 28), ("vit", 84), ("dinov2", 28)])
def test_positions_of_a_pretrained_model_are_interpolated(stored, model_type, size):
    """The reference is transformers' own interpolation at run time."""
    folder, _ = stored(model_type)
    model = build_model(ModelSettings(name=str(folder), pretrained=True), size)
    native = build_model(ModelSettings(name=str(folder), pretrained=True), 56)
    native.classifier = model.classifier
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    extra = {"interpolate_pos_encoding": True} if model_type == "vit" else {}
    with torch.no_grad():
        expected = native.eval()(pixel_values=images, **extra).logits
    torch.testing.assert_close(logits(model, size), expected)
    assert model.config.image_size == size
    embeddings = next(p for n, p in model.named_parameters() if "position_embeddings" in n)
    assert embeddings.shape[1] == (size // 14) ** 2 + 1


def test_pretrained_features_survive_another_image_size():
    if not VIT_S14.is_dir():
        pytest.skip("shared/models/vit-s14 is not beside this checkout")
    model = build_model(ModelSettings(name=str(VIT_S14), pretrained=True), 56)
    native = AutoModelForImageClassification.from_pretrained(VIT_S14, dtype=torch.float32, num_labels=2)
    native.classifier = model.classifier
    # DINOv2 interpolates at run time.
    torch.testing.assert_close(logits(model, 56), logits(native, 56), rtol=1e-4, atol=1e-4)


def test_image_size_must_be_a_multiple_of_the_patch_size():
    with pytest.raises(ConfigError, match=r"data\.img_size.*100.*\b14\b.*98 and 112"):
        build_model(ModelSettings(name="vit", config=TINY), 100)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "vit", "config": {"hidden_sise": 8}}, r"hidden_sise.*\bvit\b.*'hidden_size'"),
        (
            {"name": "siglip", "config": {"vision_config": {"patch_sise": 8}}},
            r"patch_sise.*'patch_size'",
        ),
        ({"name": "vit", "config": {"hidden_size": "wide"}}, r"\bvit\b.*\bint\b"),
        ({"name": "vit", "config": {"num_labels": 3}}, r"num_labels"),
        ({"name": "x", "config": {"model_type": "dinov"}}, r"'dinov'.*'dinov2'"),
        ({"name": "bert"}, r"\bbert\b"),
    ],
)
def test_invalid_configuration_is_rejected(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_model(ModelSettings(**settings), 56)


@pytest.mark.parametrize("name", ["roadwork-tests/no-such-model", "./no/such/folder"])
@pytest.mark.parametrize("pretrained", [True, False])
def test_unknown_name_fails_at_once(name, pretrained, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_api.HfApi.model_info", _no_network)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"model\.name=DIR.*model\.pretrained=false") as caught:
        build_model(ModelSettings(name=name, pretrained=pretrained), 56)
    assert time.monotonic() - start < 5
    assert caught.value.__cause__ is None


def _no_network(*_, **__):
    raise ConnectionError("Name or service not known")


def test_mismatched_fields_are_rejected(stored):
    folder, _ = stored("vit")
    with pytest.raises(ConfigError, match=r"weights.*model\.pretrained=false"):
        build_model(ModelSettings(name=str(folder), pretrained=True, config={"hidden_size": 32}), 56)
    with pytest.raises(ConfigError, match=r"model_type.*'dinov2'"):
        build_model(ModelSettings(name=str(folder), pretrained=True, config={"model_type": "dinov2"}), 56)


def test_missing_weights_are_logged(stored, caplog):
    folder, _ = stored("vit")
    path = folder / "model.safetensors"
    weights = load_file(path)
    # transformers writes ViT's layers under their old names.
    some = {n: v for n, v in weights.items() if "query" not in n}
    assert len(some) == len(weights) - 2
    save_file(some, path, metadata={"format": "pt"})
    build_model(ModelSettings(name=str(folder), pretrained=True), 56)
    assert "vit.layers.0.attention.q_proj.bias" in caplog.text
    save_file({"other.weight": torch.ones(1)}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weight.*\bvit\b"):
        build_model(ModelSettings(name=str(folder), pretrained=True), 56)
    path.unlink()
    with pytest.raises(ConfigError, match=r"model\.name=.*folder"):
        build_model(ModelSettings(name=str(folder), pretrained=True), 56)
