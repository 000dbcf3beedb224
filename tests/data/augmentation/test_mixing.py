import pytest
import torch

from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025, cutmix, draw_boxes, mixup

COUNT = 32


@pytest.fixture
def pair():
    """Black images of class 0, then white ones of class 1, each paired with one of the other class."""
    is_white = torch.arange(COUNT) >= COUNT // 2
    images = is_white.float().view(-1, 1, 1, 1).expand(-1, 3, 17, 23).contiguous()
    labels = torch.stack([~is_white, is_white], dim=1).float()
    partner = torch.arange(COUNT).roll(COUNT // 2)
    return images, labels, partner


def test_mixup_is_the_linear_formula():
    torch.manual_seed(0)
    images, labels = torch.rand(5, 3, 8, 9), torch.eye(2)[[0, 1, 1, 0, 1]]
    partner, lam = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([0.0, 0.25, 0.5, 0.9, 1.0])
    mixed, mixed_labels = mixup(images, labels, partner, lam)
    for row in range(5):
        own, other = lam[row], 1 - lam[row]
        torch.testing.assert_close(mixed[row], own * images[row] + other * images[partner[row]])
        torch.testing.assert_close(mixed_labels[row], own * labels[row] + other * labels[partner[row]])


def test_cutmix_labels_are_the_share_of_pixels_shown(pair):
    torch.manual_seed(0)
    images, labels, partner = pair
    boxes = draw_boxes(torch.rand(COUNT), 17, 23)
    mixed, mixed_labels = cutmix(images, labels, partner, boxes)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), mixed_labels[:, 1], atol=1e-6, rtol=0)
    assert mixed_labels[:, 1].unique().numel() > COUNT // 2
    assert set(mixed.unique().tolist()) == {0.0, 1.0}


def test_cutmix_pastes_in_place():
    images = torch.rand(2, 3, 10, 12)
    boxes = torch.tensor([[2, 5, 1, 9], [0, 10, 0, 12]])
    mixed, mixed_labels = cutmix(images, torch.eye(2), torch.tensor([1, 0]), boxes)
    expected = images[0].clone()
    expected[:, 2:5, 1:9] = images[1, :, 2:5, 1:9]
    assert torch.equal(mixed[0], expected)
    assert torch.equal(mixed[1], images[0])
    torch.testing.assert_close(mixed_labels, torch.tensor([[0.8, 0.2], [1.0, 0.0]]))


def test_boxes_have_the_requested_area_before_clipping():
    torch.manual_seed(0)
    lam = torch.linspace(0, 1, 2000)
    top, bottom, left, right = draw_boxes(lam, 60, 80).unbind(1)
    assert ((top >= 0) & (top <= bottom) & (bottom <= 60)).all()
    assert ((left >= 0) & (left <= right) & (right <= 80)).all()
    inside = (top > 0) & (bottom < 60) & (left > 0) & (right < 80)
    share = (bottom - top) * (right - left) / (60 * 80)
    assert inside.sum() > 300
    torch.testing.assert_close(share[inside], (1 - lam)[inside], atol=0.03, rtol=0)
    assert (share <= 1 - lam + 0.03).all()


@pytest.mark.parametrize("cutmix_share", [0.0, 1.0])
def test_labels_follow_pixels_through_the_augmentation(cutmix_share):
    """Black is class 0 and white class 1: at strength 0 the mean of an image is its soft label."""
    torch.manual_seed(0)
    augmentation = LatestAugmentation2025(32, cutmix_share=cutmix_share, trivial_strength=0.0)
    labels = torch.arange(64) % 2
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    augmented, soft = augmentation(images, labels)
    # Except for images with Solarize, which at strength 0 still inverts pure white.
    agree = (augmented.mean((1, 2, 3)) - soft[:, 1]).abs() < 1e-4
    assert agree.float().mean() > 0.7
    assert ((soft > 0) & (soft < 1)).any()


@pytest.mark.parametrize(("probability", "low", "high"), [(0.0, 0, 0), (0.5, 60, 140), (1.0, 190, 200)])
def test_share_of_mixed_batches(probability, low, high):
    torch.manual_seed(0)
    augmentation = LatestAugmentation2025(8, mix_probability=probability, cutmix_share=0.0, mixup_alpha=1.0)
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 2
    mixed = sum(bool(((soft := augmentation(images, labels)[1]) % 1 != 0).any()) for _ in range(200))
    assert low <= mixed <= high, soft


def test_share_of_cutmix():
    """CutMix labels are whole numbers of pixels, MixUp labels are arbitrary."""
    torch.manual_seed(0)
    augmentation = LatestAugmentation2025(16, cutmix_share=0.25, mixup_alpha=1.0)
    images, labels = torch.rand(16, 3, 16, 16), torch.arange(16) % 2
    areas = [augmentation(images, labels)[1][:, 1] * 256 for _ in range(200)]
    whole_pixels = sum(torch.allclose(area, area.round(), atol=1e-3) for area in areas)
    assert 25 <= whole_pixels <= 80


def test_single_image_batch_is_not_mixed():
    images, labels = torch.rand(1, 3, 9, 9), torch.tensor([[0.0, 1.0]])
    partner = torch.tensor([0])
    for mixed, soft in (
        mixup(images, labels, partner, torch.tensor([0.3])),
        cutmix(images, labels, partner, torch.tensor([[1, 4, 2, 8]])),
    ):
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(soft, labels)
