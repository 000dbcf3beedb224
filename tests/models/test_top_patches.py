"""The pooling top_patches: its formula, small objects, and what depends on it."""

import numpy as np
import pytest
import torch
from fixtures.detectors import ALL_NETWORKS, SIZE

from roadwork.core.errors import ConfigError
from roadwork.detector.folding import fold_calibration
from roadwork.detector.saliency import gradient_map
from roadwork.models.build import build_model
from roadwork.models.classifier import top_patch_logits
from roadwork.settings import ModelSettings


def build(family="dinov2", **settings):
    torch.manual_seed(0)
    options = {"pooling": "top_patches"} | settings
    return build_model(ModelSettings(name=family, config=ALL_NETWORKS[family], **options), SIZE).eval()


def pictures(count):
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("count", [1, 3, 7, 100])
def test_logits_are_the_mean_of_the_highest_patches(count):
    scores = torch.randn(4, 7, 2, generator=torch.Generator().manual_seed(0)).double()
    expected = []
    for photo in scores.numpy():
        order = np.argsort(photo[:, 0] - photo[:, 1])[:count]  # the highest margin for Roadwork first
        expected.append(photo[order].mean(axis=0))
    np.testing.assert_allclose(top_patch_logits(scores, count).numpy(), expected)


def test_scores_of_other_patches_have_no_gradient():
    scores = torch.randn(2, 9, 2, requires_grad=True)
    top_patch_logits(scores, 2).sum().backward()
    assert ((scores.grad != 0).any(dim=-1).sum(dim=1) == 2).all()


@pytest.mark.parametrize("family", ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_every_patch_has_a_score_and_no_other_token(family):
    network = build(family)
    with torch.no_grad():
        margins = network.patch_margins(pictures(2))
        logits = network(pictures(2)).logits
    assert margins.shape == (2, (SIZE // 8) ** 2)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], margins.topk(8, dim=1).values.mean(dim=1))


def test_the_number_of_patches_is_read_from_the_settings():
    one, all_of_them = (build(top_patches=count) for count in (1, 10_000))
    with torch.no_grad():
        margins = one.patch_margins(pictures(2))
        for network, expected in ((one, margins.max(dim=1).values), (all_of_them, margins.mean(dim=1))):
            logits = network(pictures(2)).logits
            torch.testing.assert_close(logits[:, 1] - logits[:, 0], expected)


def test_calibration_folds_into_the_head():
    network, photos = build(), pictures(3)
    with torch.no_grad():
        logits = network(photos).logits
        fold_calibration(network, temperature=1.7, threshold=0.3)
        folded = network(photos).logits
    margins = (logits[:, 1] - logits[:, 0]) / 1.7 - np.log(0.3 / 0.7)
    torch.testing.assert_close(folded[:, 1] - folded[:, 0], margins)


def test_saliency_shows_the_scores_of_the_patches():
    network, photo = build(), pictures(1)
    with torch.no_grad():
        margins = network.patch_margins(photo).view(SIZE // 8, SIZE // 8)
    expected = (margins / margins.abs().max()).clamp_min(0).numpy()
    np.testing.assert_allclose(gradient_map(network, photo), expected, rtol=1e-5)


@pytest.mark.parametrize("family", ["resnet", "siglip", "swinv2"])
def test_a_network_without_patch_tokens_is_refused(family):
    with pytest.raises(ConfigError, match=rf"model\.pooling.*top_patches.*{family}"):
        build(family)
