"""Every family with every supported pooling trains, saves, loads and exports; other poolings are rejected."""

import json
import os

import numpy as np
import pytest
import torch
from fixtures.consumer import find_consumer_python
from fixtures.detectors import ALL_NETWORKS, FACTS, SIZE
from PIL import Image
from transformers import AutoModel, AutoModelForImageClassification, Siglip2Config, Siglip2ForImageClassification

from roadwork.core.errors import ConfigError
from roadwork.detector.detector import Detector
from roadwork.detector.folding import fold_calibration
from roadwork.detector.format import Preprocessing
from roadwork.detector.saliency import gradient_map
from roadwork.export.consumer import check_environment, check_files, run_consumer
from roadwork.export.folder import write_config, write_weights
from roadwork.metrics.decision import unfold_score
from roadwork.models.build import build_model
from roadwork.models.classifier import PooledClassifier, as_own_class, family_of
from roadwork.models.head import find_head, freeze_backbone, head_of, without_head
from roadwork.models.processor import IMAGENET_STATISTICS, PROCESSOR_FILE
from roadwork.settings import ModelSettings
from roadwork.training.devices import checkpoint_gradients
from roadwork.training.lora.apply import apply_adapter, merge_adapter

WITH_CLASS_TOKEN = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
# Poolings that equal `auto` run only as slow tests.
SAME_AS_AUTO = {"vit": "cls", "dinov3_vit": "cls", "dinov2": "cls_mean", "dinov2_with_registers": "cls_mean"}
CASES = [
    pytest.param(family, pooling, marks=pytest.mark.slow if pooling == SAME_AS_AUTO.get(family, "mean") else ())
    for family in ALL_NETWORKS
    for pooling in (("auto", "cls", "mean", "cls_mean") if family in WITH_CLASS_TOKEN else ("auto", "mean"))
] + [(family, "top_patches") for family in WITH_CLASS_TOKEN]
# One family for each shape of head.
HEADS = ("resnet", "vit", "dinov2", "dinov3_vit")
# The poolings that transformers can load from an export, by family; the others need roadwork's own class.
OWN_POOLINGS = {"vit": ("auto", "cls"), "dinov3_vit": (), "dinov3_convnext": ()}
WIDTH = 16


def build(family, pooling="auto", seed=0, **settings):
    torch.manual_seed(seed)
    return build_model(ModelSettings(name=family, config=ALL_NETWORKS[family], pooling=pooling, **settings), SIZE)


def pictures(count=3, size=SIZE, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits_of(network, images):
    return network.eval()(pixel_values=images).logits


def train_a_step(network):
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    network.train()
    loss = torch.nn.functional.cross_entropy(network(pixel_values=pictures()).logits, torch.tensor([0, 1, 1]))
    loss.backward()
    for name, parameter in network.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name
    optimizer.step()
    optimizer.zero_grad()


def export(network, folder):
    """Exports like `export_run`, without a run."""
    fold_calibration(network, FACTS.temperature, FACTS.threshold)
    own = as_own_class(network)
    write_weights(own, folder)
    write_config(own, folder, FACTS)
    (folder / PROCESSOR_FILE).write_text(json.dumps(Preprocessing(SIZE, IMAGENET_STATISTICS).as_config()))
    return own


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_every_family_trains_saves_loads_and_exports(family, pooling, tmp_path):
    network = build(family, pooling)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    train_a_step(network)
    trained = logits_of(network, pictures())
    network.save_pretrained(tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits_of(again, pictures()), trained)
    assert again.config.id2label == {0: "None", 1: "Roadwork"}
    started = build_model(ModelSettings(name=str(tmp_path / "saved"), pretrained=True, pooling="auto"), SIZE)
    assert torch.equal(logits_of(started, pictures()), trained)

    own = export(network, tmp_path / "out")
    detector = Detector.load(tmp_path / "out", device="cpu")
    folded = detector.network(pictures()).detach()
    difference = (trained[:, 1] - trained[:, 0]) / FACTS.temperature
    probability = torch.sigmoid(difference.double()).numpy()
    assert detector.probabilities(folded) == pytest.approx(probability, abs=1e-6)
    by_transformers = pooling in OWN_POOLINGS.get(family, ("auto", "cls", "mean", "cls_mean"))
    assert isinstance(own, PooledClassifier) != by_transformers
    assert family_of(own.config) == {"siglip2": "siglip"}.get(family, family)
    assert gradient_map(detector.network.module, pictures(1)).shape[0] > 1


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls_mean"])
@pytest.mark.parametrize("family", WITH_CLASS_TOKEN)
def test_head_gets_the_pooled_features(family, pooling):
    """Compared with transformers' own backbone. Registers, the tokens after the class token, are not patches."""
    network = build(family, pooling).eval()
    inner = next(child for child in network.children() if hasattr(child, "embeddings"))
    with torch.no_grad(), without_head(network):
        features = network(pixel_values=pictures()).logits
        tokens = inner(pictures()).last_hidden_state
    n_patches = (SIZE // 8) ** 2
    n_registers = 2 if family in ("dinov2_with_registers", "dinov3_vit") else 0
    assert tokens.shape[1] == 1 + n_registers + n_patches
    parts = {"cls": tokens[:, :1], "mean": tokens[:, -n_patches:]}
    expected = torch.cat([parts[name].mean(dim=1) for name in pooling.split("_")], dim=1)
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("family", ["dinov3_vit", "dinov3_convnext"])
def test_dinov3_loads_from_a_backbone_folder(family, tmp_path):
    """The published form of DINOv3, here in half precision. Its positions are rotary, so any size works."""
    config = build(family).backbone.config
    backbone = AutoModel.from_config(config).half()
    backbone.save_pretrained(tmp_path)
    for size in (SIZE, 64):
        network = build_model(ModelSettings(name=str(tmp_path), pretrained=True), size).eval()
        assert {p.dtype for p in network.parameters()} == {torch.float32}
        with torch.no_grad():
            expected = network.classifier(backbone.float().eval()(pictures(size=size)).pooler_output)
        torch.testing.assert_close(logits_of(network, pictures(size=size)), expected)


@pytest.mark.parametrize(
    ("family", "pooling"),
    [(name, "cls") for name in ALL_NETWORKS if name not in WITH_CLASS_TOKEN] + [("resnet", "cls_mean")],
)
def test_pooling_without_a_class_token_is_rejected(family, pooling):
    with pytest.raises(ConfigError, match=rf"model\.pooling.*'{pooling}'.*auto, mean"):
        build(family, pooling)


def test_family_with_unknown_tokens_allows_only_auto_pooling():
    config = {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    with pytest.raises(ConfigError, match=r"poolformer.*\bauto\b"):
        build_model(ModelSettings(name="poolformer", config=config, pooling="mean"), SIZE)


@pytest.mark.parametrize("size", [SIZE, 48])
def test_naflex_matches_transformers_on_squares(size, tmp_path):
    """The reference is transformers' own class on patches; the stored 3 x 3 grid of positions is resized."""
    torch.manual_seed(0)
    original = Siglip2ForImageClassification._from_config(Siglip2Config(**ALL_NETWORKS["siglip2"])).eval()
    original.save_pretrained(tmp_path)
    network = build_model(ModelSettings(name=str(tmp_path), pretrained=True), size)
    assert network.config.model_type == "siglip"
    side = size // 8
    patches = pictures(size=size).view(3, 3, side, 8, side, 8).permute(0, 2, 4, 3, 5, 1).reshape(3, side**2, -1)
    shapes, mask = torch.tensor([[side, side]] * 3), torch.ones(3, side**2)
    with torch.no_grad():
        expected = original(patches, pixel_attention_mask=mask, spatial_shapes=shapes).logits
    torch.testing.assert_close(logits_of(network, pictures(size=size)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_pooled_classifier_interpolates_positions(family, tmp_path):
    build(family, "mean").save_pretrained(tmp_path)
    resized = build_model(ModelSettings(name=str(tmp_path), pretrained=True, pooling="mean"), 64)
    native = build_model(ModelSettings(name=str(tmp_path), pretrained=True), SIZE)
    images, extra = pictures(size=64), {"interpolate_pos_encoding": True} if family == "vit" else {}
    with torch.no_grad():  # interpolated by transformers at run time
        tokens = native.eval().backbone(images, **extra).last_hidden_state
        expected = native.classifier(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(logits_of(resized, images), expected)
    assert resized.config.vision_config.image_size == 64


def test_new_pooling_keeps_the_backbone(tmp_path):
    first = build("vit", "mean")
    first.save_pretrained(tmp_path)
    other = build_model(ModelSettings(name=str(tmp_path), pretrained=True, pooling="cls_mean"), SIZE)
    assert other.classifier.in_features == 2 * WIDTH
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(other.backbone.state_dict()[name], value)


@pytest.mark.parametrize("family", ["vit", "dinov3_vit"])
def test_pooled_classifier_trains_with_adapters(family):
    plain, saving = build(family, "mean"), build(family, "mean")
    checkpoint_gradients(saving)
    for network in (plain, saving):
        torch.manual_seed(5)  # DINOv3 scales its positions at random
        network.train()(pixel_values=pictures()).logits.square().sum().backward()
    kept = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    for name, parameter in saving.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, kept[name])
    freeze_backbone(plain)
    assert [name for name, p in plain.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]
    adapted = apply_adapter(saving, "lora", rank=2)
    train_a_step(adapted)
    assert isinstance(merge_adapter(adapted), PooledClassifier)


def test_convolutions_reject_gradient_checkpointing():
    with pytest.raises(ConfigError, match=r"gradient_checkpointing is true.*roadwork_pooled"):
        checkpoint_gradients(build("dinov3_convnext"))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_setting_reaches_the_backbone(attention):
    network = build("vit", "mean", attention=attention)
    assert network.backbone.config._attn_implementation == attention
    torch.testing.assert_close(logits_of(network, pictures()), logits_of(build("vit", "mean"), pictures()))


def test_consumer_check_explains_a_pooled_vit(tmp_path):
    export(build("vit", "mean").eval(), tmp_path)
    check = next(check for check in check_files(tmp_path) if check.name == "model type")
    assert check.status == "failed"
    assert "model.pooling=auto" in check.fix
    export(build("dinov2", "mean").eval(), tmp_path)
    assert next(check for check in check_files(tmp_path) if check.name == "model type").status == "ok"


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in HEADS else pytest.mark.slow) for name in ALL_NETWORKS]
)
def test_head_dropout_acts_only_in_training(family, tmp_path):
    plain, dropped = build(family), build(family, head_dropout=0.5)
    assert find_head(dropped) == find_head(plain)
    assert list(dropped.state_dict()) == list(plain.state_dict())
    assert torch.equal(logits_of(dropped, pictures()), logits_of(plain, pictures()))
    features = torch.rand(2000, WIDTH * (2 if "dinov2" in family else 1)) + 1
    head, reference = head_of(dropped).train(), head_of(plain).eval()
    with torch.no_grad():
        drawn, mean = head(features), reference(features)
        assert (drawn - mean).abs().amax(dim=1).gt(1e-4).all()
        torch.testing.assert_close(drawn.mean(dim=0), mean.mean(dim=0), atol=0.1, rtol=0)
    dropped.eval()
    export(dropped, tmp_path)
    detector = Detector.load(tmp_path, device="cpu")
    head_of(detector.network.module).train()
    assert torch.equal(detector.network(pictures()), detector.network(pictures()))  # dropout is not exported


@pytest.mark.slow
def test_consumer_loads_converted_networks(tmp_path):
    """DINOv2 with half a head, and NaFlex as SigLIP, in transformers 4.45.2."""
    python = find_consumer_python(os.environ)
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)).save(photo)
    folders = []
    for family, pooling in (("dinov2", "cls"), ("dinov2", "mean"), ("siglip2", "auto")):
        folders.append(tmp_path / f"{family}-{pooling}")
        export(build(family, pooling).eval(), folders[-1])
    for folder, answer in zip(folders, run_consumer(python, [(folder, [photo]) for folder in folders]), strict=True):
        assert check_environment(answer).status == "ok", check_environment(answer)
        ours = Detector.load(folder, device="cpu")(photo).probability
        assert unfold_score(answer.scores, FACTS.threshold) == pytest.approx([ours], abs=1e-4)
