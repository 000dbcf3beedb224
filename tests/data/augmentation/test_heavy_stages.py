import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from roadwork.data.augmentation import geometry, heavy_aug_kornia
from roadwork.data.augmentation.color import color_twist, compress, luma
from roadwork.data.augmentation.heavy_aug_kornia import (
    CONDITIONS,
    STAGES,
    HeavyAugmentationKornia,
    _lengthen,
    random_weather_,
)


@pytest.fixture
def images():
    torch.manual_seed(0)
    coarse = torch.rand(8, 3, 8, 8) * 0.8 + 0.1
    return F.interpolate(coarse, size=(64, 64), mode="bilinear", align_corners=False)


def through_jpeg(images, quality, mode):
    """Images (N, 3, S, S) in 8-bit levels through Pillow's JPEG files."""
    decoded = []
    for image in (images * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).convert(mode).save(file, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1))
    return torch.stack(decoded).float()


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 95])
@pytest.mark.parametrize("size", [64, 50])
def test_jpeg_of_grey_images_is_pillow_s(images, quality, size):
    grey = (luma(images)[..., :size, :size].expand(-1, 3, -1, -1) * 255).round() / 255
    ours = compress(grey, torch.full((8,), float(quality))) * 255
    difference = (ours - through_jpeg(grey, quality, "L")).abs()
    assert difference.mean() < 0.5  # 0.25 from whole levels; coefficients halfway between two steps round otherwise


@pytest.mark.parametrize("quality", [10, 30, 75])
def test_jpeg_of_colour_images_is_near_pillow_s(images, quality):
    noisy = ((images + 0.05 * torch.randn_like(images)).clamp(0, 1) * 255).round() / 255
    ours = compress(noisy, torch.full((8,), float(quality))) * 255
    theirs = through_jpeg(noisy, quality, "RGB")
    assert (ours - theirs).abs().mean() < 0.25 * (theirs - noisy * 255).abs().mean()


def test_jpeg_quality_is_each_image_s_own(images):
    pair = images[:1].repeat(2, 1, 1, 1)
    coarse, fine = (compress(pair, torch.tensor([5.0, 95.0])) - pair).abs().mean((1, 2, 3))
    assert coarse > 3 * fine


def twist(images, **changes):
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue_shifts_deg": 0.0}
    return color_twist(
        images, **{name: torch.full((len(images),), value) for name, value in (neutral | changes).items()}
    )


def test_neutral_color_twist_changes_nothing(images):
    torch.testing.assert_close(twist(images), images, atol=1e-5, rtol=0)


def test_color_twist_against_its_definitions(images):
    def close(ours, expected):
        torch.testing.assert_close(ours, expected.clamp(0, 1).expand_as(ours), atol=1e-4, rtol=0)

    close(twist(images, brightness=1.3), images * 1.3)
    close(twist(images, contrast=0.6), 0.5 + 0.6 * (images - 0.5))
    # NTSC's I and Q have only three digits, so they are not completely free of luma.
    torch.testing.assert_close(twist(images, saturation=0.0), luma(images).expand_as(images), atol=2e-3, rtol=0)


def test_hue_shift_keeps_luma_and_turns_in_a_circle(images):
    muted = 0.5 + 0.3 * (images - 0.5)  # nothing is clipped
    turned = twist(muted, hue_shifts_deg=90.0)
    assert (turned - muted).abs().max() > 0.02
    torch.testing.assert_close(luma(turned), luma(muted), atol=1e-3, rtol=0)
    torch.testing.assert_close(twist(muted, hue_shifts_deg=360.0), muted, atol=1e-4, rtol=0)


def test_warp_by_exact_matrices(images):
    count = len(images)
    eye = torch.eye(3).repeat(count, 1, 1)
    torch.testing.assert_close(geometry.warp(images, eye, "zeros"), images, atol=1e-4, rtol=0)
    mirrored = geometry.warp(images, geometry.mirror(torch.ones(count, dtype=torch.bool)), "zeros")
    torch.testing.assert_close(mirrored, images.flip(-1), atol=1e-4, rtol=0)
    turned = geometry.warp(images, geometry.rotate(torch.full((count,), 90.0)), "zeros")
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    moved = geometry.warp(images, geometry.translate_x(torch.full((count,), 0.25)), "zeros")
    torch.testing.assert_close(moved[..., :48], images[..., 16:], atol=1e-4, rtol=0)
    halves = geometry.warp(images, geometry.zoom(torch.full((count,), 0.5)), "zeros")
    assert halves[..., :15, :].abs().max() == 0
    assert halves[..., 16:48, 16:48].min() > 0


def test_perspective_moves_a_corner_as_its_formula_says():
    """The output's upper right corner (1, -1) shows the input's (1, -1) / (1 + 0.2 * 1 - 0.1 * -1)."""
    size = 400
    ramp = ((torch.arange(size) + 0.5) * 2 / size - 1).expand(1, 1, size, size)
    warped = geometry.warp(ramp, geometry.perspective(torch.tensor([0.2]), torch.tensor([-0.1])), "border")
    edge = ramp[0, 0, 0, -1].item()
    assert warped[0, 0, 0, -1].item() == pytest.approx(edge / (1 + 0.2 * edge + 0.1 * edge), abs=1e-3)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("size", [8, 33, 96])
def test_weather_shows_on_each_image_differently(condition, size):
    torch.manual_seed(0)
    scene = torch.rand(1, 3, size, size).repeat(6, 1, 1, 1)
    changed = condition(scene)
    assert changed.shape == scene.shape
    assert changed.isfinite().all()
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.unique(changed, dim=0).shape[0] == 6
    # The scene must remain recognisable.
    correlation = torch.corrcoef(torch.stack([changed.flatten(), scene.flatten()]))[0, 1]
    assert 0.6 < correlation < 1


def test_shadow_darkens_and_fog_flattens(images):
    conditions = {condition.__name__: condition(images) for condition in CONDITIONS}
    assert (conditions["shadow"] <= images).all()
    assert (conditions["fog"].std((1, 2, 3)) < images.std((1, 2, 3))).all()
    assert (conditions["snow"].mean((1, 2, 3)) > images.mean((1, 2, 3))).all()


def test_one_condition_an_image_all_equally_often(monkeypatch):
    """Each condition adds its own power of ten, so the sum shows which were applied."""
    counted = tuple(lambda batch, amount=10.0**power: batch + amount for power in range(len(CONDITIONS)))
    monkeypatch.setattr("roadwork.data.augmentation.heavy_aug_kornia.CONDITIONS", counted)
    torch.manual_seed(0)
    values, counts = random_weather_(torch.zeros(4000, 1, 1, 1)).unique(return_counts=True)
    assert values.tolist() == [1.0, 10.0, 100.0, 1000.0]
    assert counts.min() > 900


def only(monkeypatch, stage, share):
    """Disables the viewpoint and all stages except one."""
    shares = {name: share if name == stage else 0.0 for name in STAGES}
    monkeypatch.setattr(heavy_aug_kornia, "_move_camera", torch.clone)
    monkeypatch.setattr(
        heavy_aug_kornia, "STAGES", {name: replace(STAGES[name], share=share) for name, share in shares.items()}
    )


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_touches_its_share_of_the_images(monkeypatch, images, stage):
    only(monkeypatch, stage, STAGES[stage].share)
    torch.manual_seed(0)
    batch = images[:1].repeat(600, 1, 1, 1)
    augmented, _ = HeavyAugmentationKornia(64)(batch, torch.zeros(600, dtype=torch.int64))
    changed = (augmented != batch).flatten(1).any(1)
    assert changed.float().mean() == pytest.approx(STAGES[stage].share, abs=0.06)
    assert torch.unique(augmented[changed], dim=0).shape[0] > 0.7 * changed.sum()


def test_erasing_is_mild(monkeypatch, images):
    only(monkeypatch, "erasing", 1.0)
    batch = images.repeat(30, 1, 1, 1)
    augmented, _ = HeavyAugmentationKornia(64)(batch, torch.zeros(240, dtype=torch.int64))
    erased = (augmented != batch).any(1)
    share = erased.float().mean((1, 2))
    assert 0.004 < share.min() < share.max() < 0.04
    # Boxes have an aspect ratio of up to 2.5, and any position.
    heights, widths = erased.any(2).sum(1), erased.any(1).sum(1)
    torch.testing.assert_close(erased.sum((1, 2)), heights * widths)
    ratios = heights / widths
    assert 0.3 < ratios.min() < 0.6
    assert 1.8 < ratios.max() < 3.5
    assert erased.any(0).float().mean() > 0.9


def test_blur_keeps_the_border_and_moves_along_a_line(monkeypatch, images):
    only(monkeypatch, "blur", 1.0)
    flat = torch.full((4, 3, 64, 64), 0.25)
    blurred, _ = HeavyAugmentationKornia(64)(flat, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(blurred, flat)  # kornia's own default darkens the border
    blurred, _ = HeavyAugmentationKornia(64)(images, torch.zeros(8, dtype=torch.int64))
    assert (blurred - images).abs().mean() > 0.003


def test_lengths_of_motion_follow_the_size(monkeypatch):
    sizes = set()
    monkeypatch.setattr(heavy_aug_kornia, "motion_blur", lambda images, size, *_, **__: sizes.add(size) or images)
    for size, expected in ((64, {3}), (320, {3, 5, 7, 9})):
        sizes.clear()
        for _ in range(60):
            STAGES["blur"].change(torch.zeros(1, 3, size, size))
        assert sizes == expected


@pytest.mark.parametrize("half_length", [1, 2, 3, 4, 7, 8, 22])
def test_streaks_are_the_maximum_over_their_length(half_length):
    specks = torch.rand(3, 1, 60, 20) < 0.02
    expected = F.max_pool2d(specks.float(), (2 * half_length + 1, 1), stride=1, padding=(half_length, 0))
    assert torch.equal(_lengthen(specks, half_length).float(), expected)
