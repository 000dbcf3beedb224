"""Requirements of every registered augmentation; new ones are tested automatically."""

import pickle

import pytest
import torch
import torch.nn.functional as F

from roadwork.core.errors import ConfigError, DataError
from roadwork.data.augmentation.build import AUGMENTATIONS, build_train_augmentation
from roadwork.data.augmentation.latest_aug_2025 import LatestAugmentation2025
from roadwork.settings import AUGMENTATION_MODES, TrainAugmentationSettings

SIZE = 48


draws_something = pytest.mark.parametrize(
    "augmentation", [name for name in AUGMENTATIONS if name != "none"], indirect=True
)


@pytest.fixture(params=AUGMENTATIONS)
def augmentation(request):
    torch.manual_seed(0)
    return AUGMENTATIONS[request.param](img_size=SIZE)


def make_batch(count=16, height=SIZE, width=SIZE, dtype=torch.float32):
    """Smooth, colourful, distinct images, on which noise and blur are visible."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    images = F.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return images.to(dtype), torch.arange(count) % 2


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (37, 91), (200, 33), (9, 9)])
def test_any_size_comes_out_square_finite_and_in_range(augmentation, height, width):
    images, labels = make_batch(height=height, width=width)
    for _ in range(6):
        augmented, new_labels = augmentation(images, labels)
        assert augmented.shape == (16, 3, SIZE, SIZE)
        assert augmented.dtype == torch.float32
        assert augmented.isfinite().all()
        assert augmented.min() >= 0
        assert augmented.max() <= 1
        assert len(new_labels) == 16


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [8, 31, 65])
def test_odd_output_sizes(name, size):
    torch.manual_seed(0)
    augmentation = AUGMENTATIONS[name](img_size=size)
    for _ in range(10):
        augmented, _ = augmentation(*make_batch(count=5))
        assert augmented.shape == (5, 3, size, size)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_flat_images_stay_finite(augmentation, value):
    """Detects a division by an image's standard deviation."""
    images = torch.full((32, 3, SIZE, SIZE), value)
    for _ in range(5):
        augmented, _ = augmentation(images, torch.zeros(32, dtype=torch.int64))
        assert augmented.isfinite().all()


def test_labels_keep_their_meaning(augmentation):
    images, labels = make_batch()
    _, new_labels = augmentation(images, labels)
    if new_labels.dtype == torch.int64:
        assert torch.equal(new_labels, labels)
    else:
        assert new_labels.shape == (16, 2)
        torch.testing.assert_close(new_labels.sum(1), torch.ones(16), atol=1e-6, rtol=0)
        assert (new_labels >= 0).all()
        # Partners are a permutation of the batch, so that only pasted areas shift the balance of the classes.
        assert 0.2 < new_labels[:, 1].mean() < 0.8


@draws_something
def test_each_image_is_changed_in_its_own_way(augmentation):
    picture, _ = make_batch(count=1)
    images, labels = picture.repeat(16, 1, 1, 1), torch.zeros(16, dtype=torch.int64)
    augmented, _ = augmentation(images, labels)
    assert torch.unique(augmented, dim=0).shape[0] >= 12
    assert (augmented != images).flatten(1).any(1).sum() >= 12


def test_arguments_are_not_modified(augmentation):
    images, labels = make_batch()
    images_before, labels_before = images.clone(), labels.clone()
    for _ in range(5):
        augmentation(images, labels)
    assert torch.equal(images, images_before)
    assert torch.equal(labels, labels_before)


@draws_something
def test_seed_repeats_the_draws(augmentation):
    batch = make_batch()
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(augmentation(*batch))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_evaluation_mode_only_resizes(augmentation):
    images, labels = make_batch(height=96, width=72)
    trained_labels = augmentation(images, labels)[1]
    resized, plain_labels = augmentation.eval()(images, labels)
    expected = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    torch.testing.assert_close(resized, expected.clamp(0, 1))
    assert (plain_labels.shape, plain_labels.dtype) == (trained_labels.shape, trained_labels.dtype)
    assert torch.equal(plain_labels if plain_labels.ndim == 1 else plain_labels.argmax(1), labels)
    fitting, fitting_labels = make_batch()
    assert torch.equal(augmentation(fitting, fitting_labels)[0], fitting)


def test_one_image(augmentation):
    images, labels = make_batch(count=1)
    for _ in range(20):
        augmented, new_labels = augmentation(images, labels)
        assert augmented.shape == images.shape
        assert torch.equal(new_labels if new_labels.ndim == 1 else new_labels.argmax(1), labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(augmentation, dtype):
    images, labels = make_batch(dtype=dtype)
    torch.manual_seed(0)
    half, half_labels = augmentation(images, labels)
    torch.manual_seed(0)
    full, full_labels = augmentation(images.float(), labels)
    assert half.dtype == dtype
    assert torch.equal(half, full.to(dtype))
    assert torch.equal(half_labels, full_labels)


def test_autocast_does_not_reduce_precision(augmentation):
    images, labels = make_batch()
    torch.manual_seed(0)
    plain, _ = augmentation(images, labels)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = augmentation(images, labels)
    assert torch.equal(plain, cast)


def test_no_gradient_no_weights_and_picklable(augmentation):
    images, labels = make_batch()
    assert not augmentation(images.requires_grad_(), labels)[0].requires_grad
    assert not augmentation.state_dict()
    assert not list(augmentation.parameters())
    copy = pickle.loads(pickle.dumps(augmentation))
    torch.manual_seed(0)
    expected = augmentation(images, labels)[0]
    torch.manual_seed(0)
    assert torch.equal(copy(images, labels)[0], expected)


IMAGES, LABELS = make_batch(count=4)
WITH_NAN = IMAGES.clone()
WITH_NAN[2, 1, 5, 5] = torch.nan


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((IMAGES * 255).byte(), LABELS, r"torch\.uint8.*255"),
        (IMAGES * 255, LABELS, r"\[0, 1\].*255"),
        (IMAGES * 4 - 2, LABELS, r"\[0, 1\].*normalise"),
        (WITH_NAN, LABELS, "nan to nan"),
        (IMAGES[0], LABELS, r"shape \(3, 48, 48\)"),
        (IMAGES.permute(0, 2, 3, 1), LABELS, r"shape \(4, 48, 48, 3\)"),
        (IMAGES[:0], LABELS[:0], "not empty"),
        (IMAGES, LABELS[:3], r"\(3,\).*4 images"),
        (IMAGES, F.one_hot(LABELS, 2), r"shape \(4, 2\)"),
        (IMAGES, LABELS.float(), r"torch\.float32.*torch\.int64"),
        (IMAGES, LABELS.int(), r"torch\.int32"),
        (IMAGES, LABELS + 1, r"1 to 2\b.*\b0\b"),
        (IMAGES, LABELS - 1, r"-1 to 0\b.*\b0\b"),
    ],
)
def test_wrong_batches_are_named(augmentation, images, labels, message):
    with pytest.raises(DataError, match=message):
        augmentation(images, labels)


def test_settings_and_registry_name_the_same_modes():
    assert tuple(AUGMENTATIONS) == AUGMENTATION_MODES


@pytest.mark.parametrize("mode", AUGMENTATIONS)
def test_builds_by_mode(mode):
    built = build_train_augmentation(TrainAugmentationSettings(mode=mode), img_size=64)
    assert type(built) is AUGMENTATIONS[mode]
    assert built.img_size == 64
    assert built.training


def test_settings_reach_the_augmentation():
    settings = TrainAugmentationSettings(
        mix_probability=0.1, cutmix_share=0.2, cutmix_alpha=0.3, mixup_alpha=0.4, trivial_strength=0.6
    )
    built = build_train_augmentation(settings, img_size=64)
    names = ("mix_probability", "cutmix_share", "cutmix_alpha", "mixup_alpha", "trivial_strength")
    assert [getattr(built, name) for name in names] == [0.1, 0.2, 0.3, 0.4, 0.6]


@pytest.mark.parametrize(("mode", "nearest"), [("latest_2052", "latest_2025"), ("heavy-kornia", "heavy_kornia")])
def test_unknown_mode_lists_the_modes_and_the_nearest(mode, nearest):
    with pytest.raises(ValueError, match=r"^Unknown augmentation mode: ") as error:
        build_train_augmentation(TrainAugmentationSettings(mode=mode), img_size=64)
    assert isinstance(error.value, ConfigError)
    assert f"Unknown augmentation mode: {mode!r}" in str(error.value)
    assert all(name in str(error.value) for name in AUGMENTATIONS)
    assert f"Did you mean {nearest!r}?" in str(error.value)


@pytest.mark.parametrize("img_size", [0, -1, 7])
def test_tiny_output_is_rejected(img_size):
    for augmentation in AUGMENTATIONS.values():
        with pytest.raises(ConfigError, match=rf"img_size.* {img_size}\b"):
            augmentation(img_size)


@pytest.mark.parametrize(
    "settings",
    [
        {"mix_probability": 1.5},
        {"cutmix_share": -0.1},
        {"trivial_strength": 2},
        {"cutmix_alpha": 0},
        {"mixup_alpha": -1},
    ],
)
def test_settings_out_of_range_are_rejected(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LatestAugmentation2025(SIZE, **settings)
