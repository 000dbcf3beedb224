"""zoom_out: photos are pasted small onto None photos, keep their labels, and crops stay inside the photo."""

import pytest
import torch

from roadwork.data.augmentation.zoom_out import LARGEST, SMALLEST, ZoomOutAugmentation, _crop, paste

SIZE = 64


def flat_batch(values):
    """Photos of one grey value each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE).clone()


def test_a_pasted_photo_is_small_and_lies_on_a_none_photo():
    images = flat_batch([0.0, 1.0, 0.2])
    torch.manual_seed(0)
    shares = []
    for _ in range(300):
        result = paste(images, torch.tensor([1]), torch.tensor([2]), torch.zeros(3, dtype=torch.bool))
        assert torch.equal(result[[0, 2]], images[[0, 2]])
        assert set(result[1].unique().tolist()) >= {torch.tensor(0.2).item()}
        is_pasted = result[1, 0] > 0.2
        height, width = is_pasted.any(dim=1).sum().item(), is_pasted.any(dim=0).sum().item()
        assert height == width
        assert is_pasted.nonzero().float().mean(dim=0)[0] > 0.3 * SIZE  # not in the sky
        shares.append(width / SIZE)
    assert min(shares) == pytest.approx(SMALLEST, abs=0.04)
    assert max(shares) == pytest.approx(LARGEST, abs=0.04)


def test_pasted_photos_come_from_both_classes_and_keep_labels():
    images, labels = flat_batch([0.02, 0.9] * 16), torch.tensor([0, 1] * 16)
    torch.manual_seed(0)
    augmentation = ZoomOutAugmentation(SIZE, paste_probability=1.0, crop_probability=0.0)
    mixed, new_labels = augmentation(images, labels)
    assert torch.equal(new_labels, labels)
    spread = mixed.flatten(1).amax(dim=1) - mixed.flatten(1).amin(dim=1)
    has_bright_part = spread > 0.1
    assert has_bright_part[labels == 1].all()  # roadwork, bright, on a dark street
    assert not has_bright_part[labels == 0].any()  # a dark street on a dark street


def test_half_of_the_pasted_none_photos_change_colours():
    orange = torch.tensor([0.9, 0.4, 0.1]).view(1, 3, 1, 1).expand(64, 3, SIZE, SIZE).clone()
    torch.manual_seed(0)
    for label, lowest, highest in ((0, 0.3, 0.6), (1, 0.0, 0.0)):
        labels = torch.full((64,), label)
        labels[0] = 0  # the street that photos are pasted onto
        mixed, _ = ZoomOutAugmentation(SIZE, paste_probability=1.0, crop_probability=0.0)(orange, labels)
        is_orange = (mixed[:, 0] > mixed[:, 1]) & (mixed[:, 1] > mixed[:, 2])
        is_orange = is_orange.flatten(1).float().mean(dim=1)[1:] > 0.99
        assert lowest <= 1 - is_orange.float().mean() <= highest


def test_without_a_none_photo_nothing_is_pasted():
    torch.manual_seed(0)
    images, labels = flat_batch([0.1, 0.9]), torch.ones(2, dtype=torch.int64)
    mixed, _ = ZoomOutAugmentation(SIZE, paste_probability=1.0)(images, labels)
    assert (mixed.flatten(1).amax(dim=1) - mixed.flatten(1).amin(dim=1)).max() < 0.1


def test_crops_show_a_part_of_the_photo():
    ramp = torch.linspace(0, 1, SIZE).view(1, 1, 1, SIZE).expand(200, 3, SIZE, SIZE).clone()
    torch.manual_seed(0)
    cropped = _crop(ramp)
    widths = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert widths.min() > 0.9 * 0.1**0.5 * (SIZE - 1) / SIZE - 0.02
    assert widths.max() < 1
    assert cropped[:, 0, 0, 0].min() < 0.1
    assert cropped[:, 0, 0, -1].max() > 0.9
    assert (cropped[:, 0].diff(dim=2) >= -1e-6).all()


def test_roadwork_photos_are_never_cropped():
    ramp = torch.linspace(0.2, 0.8, SIZE).view(1, 1, 1, SIZE).expand(32, 3, SIZE, SIZE).clone()
    torch.manual_seed(0)
    augmentation = ZoomOutAugmentation(SIZE, paste_probability=0.0, crop_probability=1.0)
    for label in (0, 1):
        augmented, _ = augmentation(ramp, torch.full((32,), label))
        ratio = (augmented[:, :, :, -1] - augmented[:, :, :, 0]).abs().mean(dim=(1, 2)) / 0.6
        assert (ratio.min() > 0.4) == bool(label)  # colour changes the contrast, a crop takes most of the ramp
