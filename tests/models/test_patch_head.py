"""The patch head `color`: its colours, its components, and a planted coloured object."""

import colorsys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE, TINY_NETWORKS
from sklearn.decomposition import PCA

from roadwork.config import to_settings
from roadwork.data.datamodule import NATIXDataModule
from roadwork.detector.detector import Detector
from roadwork.evaluation.evaluate import evaluate_run, load_best_model
from roadwork.export.export import export_run
from roadwork.metrics.predictions import read_predictions
from roadwork.models.build import build_model
from roadwork.models.patch_head import HUE_WIDTH_DEG, N_COLORS, N_HUES, PatchColors, PatchHead
from roadwork.models.processor import IMAGENET_STATISTICS, UNNORMALISED
from roadwork.runs.run import Run
from roadwork.settings import ModelSettings
from roadwork.training.trainers.base_trainer import BaseTrainer


def build(**settings):
    torch.manual_seed(0)
    options = {"pooling": "top_patches", "patch_head": "color", "top_patches": 2} | settings
    return build_model(ModelSettings(name="dinov2", config=ALL_NETWORKS["dinov2"], **options), SIZE).eval()


def flat(color, size=8):
    return torch.tensor(color).float().view(1, 3, 1, 1).expand(1, 3, size, size)


@pytest.mark.parametrize("degrees", range(0, 360, 20))
def test_a_saturated_patch_has_its_own_hue_alone(degrees):
    colors = PatchColors(8, UNNORMALISED.mean, UNNORMALISED.std)(flat(colorsys.hsv_to_rgb(degrees / 360, 1.0, 1.0)))[
        0, 0
    ]
    peak = int(colors[:N_HUES].argmax())
    assert abs((peak * 360 / N_HUES - degrees + 180) % 360 - 180) <= HUE_WIDTH_DEG / 2
    assert (colors[:N_HUES] > 1e-3).sum() <= 3


def test_grey_has_brightness_and_contrast_alone():
    grey = flat([0.0, 0.0, 0.0]).clone()
    grey[..., ::2] = 0.6
    colors = PatchColors(8, UNNORMALISED.mean, UNNORMALISED.std)(grey)[0, 0]
    assert colors[:N_HUES].max() < 1e-3
    np.testing.assert_allclose(colors[N_HUES:], [0.3, 0.3], rtol=1e-5)


def test_colors_do_not_depend_on_the_normalisation():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_STATISTICS.mean, IMAGENET_STATISTICS.std))
    expected = PatchColors(8, UNNORMALISED.mean, UNNORMALISED.std)(images)
    found = PatchColors(8, IMAGENET_STATISTICS.mean, IMAGENET_STATISTICS.std)((images - mean) / std)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_patches_are_in_the_order_of_the_tokens():
    image = torch.zeros(1, 3, 16, 24)
    image[:, 0, 8:, 8:16] = 1.0  # second row, second of three columns
    colors = PatchColors(8, UNNORMALISED.mean, UNNORMALISED.std)(image)[0]
    assert colors[:, 0].nonzero().flatten().tolist() == [4]


def test_components_are_the_whitened_principal_ones():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(500, 40)) * np.linspace(0.2, 3, 40) + 5
    colors = rng.random((500, N_COLORS)) * 7
    head = PatchHead(40, 2)
    patches = torch.tensor(np.hstack([tokens, colors])).float()
    share = head.fit_components(patches)
    inputs = head.inputs(patches).numpy()
    reference = PCA(head.components.shape[1], whiten=True).fit(tokens)
    expected = reference.transform(tokens)
    correlation = np.corrcoef(inputs[:, : expected.shape[1]].T, expected.T)[: expected.shape[1], expected.shape[1] :]
    np.testing.assert_allclose(np.sort(np.abs(correlation).max(axis=1)), 1, atol=1e-3)
    np.testing.assert_allclose(inputs.std(axis=0), 1, atol=0.01)
    rare = patches.clone()
    rare[:, -1] *= 1e-4
    head.fit_components(rare)
    assert head.inputs(rare)[:, -1].std() < 0.01  # a colour that training hardly shows is not amplified
    assert share == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-4)


def test_a_small_coloured_object_is_learned_at_any_place():
    network = build()
    rng = torch.Generator().manual_seed(0)
    photos = (0.4 + 0.2 * torch.rand(64, 1, SIZE, SIZE, generator=rng)).expand(-1, 3, -1, -1).clone()
    labels = torch.arange(64) % 2
    cells = torch.randint(SIZE // 8, (64, 2), generator=rng) * 8
    for photo, label, (y, x) in zip(photos, labels, cells.tolist(), strict=True):
        photo[:, y : y + 8, x : x + 8] = torch.tensor([0.9, 0.5, 0.1] if label else [0.1, 0.5, 0.9]).view(3, 1, 1)
    with torch.no_grad():
        patches = network.patches(photos)
    network.classifier.fit_components(patches.flatten(0, 1))
    optimizer = torch.optim.Adam(network.classifier.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(photos[:48]).logits, labels[:48]).backward()
        optimizer.step()
    with torch.no_grad():
        assert (network(photos[48:]).logits.argmax(dim=1) == labels[48:]).all()


@pytest.mark.parametrize("key", ["training.adapter=lora", "training.freeze_backbone=true"])
def test_a_run_fits_components_and_exports_the_same_decisions(tiny_config, tmp_path, key):
    cfg = tiny_config("model.pooling=top_patches", "model.patch_head=color", key, "training.epochs=1")
    cfg.model.name, cfg.model.config = "vit", TINY_NETWORKS["vit"]
    torch.manual_seed(0)
    datamodule = NATIXDataModule(cfg)
    run = BaseTrainer(cfg, build_model(to_settings(cfg).model, cfg.data.img_size)).fit(datamodule)
    evaluate_run(run)
    names = ("mean", "components", "color_scale")
    heads = [part for part in load_best_model(run, to_settings(cfg)).modules() if isinstance(part, PatchHead)]
    assert heads
    for head in heads:
        patches = torch.cat([getattr(head, name).flatten() for name in names])
        assert head.is_fitted
        assert torch.isfinite(patches).all()
        assert not torch.equal(head.mean, torch.zeros_like(head.mean))
    expected = read_predictions(Run(run).predictions_file).set_index("filename")["probability"]
    for kind in ("hf", "onnx"):
        export_run(run, tmp_path / kind, format=kind)
        photos = [Path(cfg.data.root) / name for name in expected.index[:4]]
        found = [photo.probability for photo in Detector.load(tmp_path / kind, "cpu").predict_many(photos)]
        np.testing.assert_allclose(found, expected[:4], atol=1e-4)


def test_the_head_survives_save_and_load(tmp_path):
    network = build()
    network.classifier.fit_components(torch.randn(100, network.classifier.width + N_COLORS))
    network.save_pretrained(tmp_path)
    loaded = type(network).from_pretrained(tmp_path).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    assert loaded.classifier.is_fitted
    torch.testing.assert_close(loaded(images).logits, network(images).logits)
