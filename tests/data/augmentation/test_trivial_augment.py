"""Each operation equals Pillow's on 8-bit images."""

import numpy as np
import pytest
import torch
from kornia import enhance
from PIL import Image, ImageEnhance, ImageOps

from roadwork.data.augmentation.trivial_augment import (
    OPERATIONS,
    Geometric,
    Photometric,
    apply_operations_,
    trivial_augment_,
)

SIZE = 64
NAMES = list(OPERATIONS)
SIGNED = [-1.0, -0.4, 0.3, 1.0]


@pytest.fixture
def picture():
    """A gradient with blocks on it, 20 to 220, so that contrast can still be stretched."""
    generator = np.random.default_rng(0)
    blocks = np.kron(generator.integers(0, 120, (8, 8, 3)), np.ones((8, 8, 1)))
    ramp = np.linspace(20, 100, SIZE).reshape(1, -1, 1)
    return Image.fromarray((blocks + ramp).astype(np.uint8))


def to_batch(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def apply(picture, name, level):
    """An image (64, 64, 3) as 8-bit levels."""
    images = to_batch(picture)
    apply_operations_(images, torch.tensor([NAMES.index(name)]), torch.tensor([level]))
    return images[0].permute(1, 2, 0).numpy() * 255


def difference(ours, reference):
    return np.abs(ours - np.asarray(reference, dtype=np.float64))


# Pillow truncates to integer levels and the batch stays float: 1 level. Pillow also rounds the mean of Contrast.
@pytest.mark.parametrize("level", SIGNED)
@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness"])
def test_enhancements(picture, name, level):
    reference = getattr(ImageEnhance, name)(picture).enhance(1 + 0.99 * level)
    assert difference(apply(picture, name, level), reference).max() <= 1.51
    assert difference(apply(picture, name, level), picture).max() > 10


@pytest.mark.parametrize("level", [0.0, 0.5, -0.5, 1.0])
def test_posterize(picture, level):
    reference = ImageOps.posterize(picture, 8 - round(6 * abs(level)))
    assert difference(apply(picture, "Posterize", level), reference).max() < 1e-3


@pytest.mark.parametrize("level", [0.3, -0.3, 0.7, 1.0])
def test_solarize(picture, level):
    reference = ImageOps.solarize(picture, 255 * (1 - abs(level)))
    assert difference(apply(picture, "Solarize", level), reference).max() < 1e-3


@pytest.mark.parametrize(
    ("name", "reference", "tolerance"),
    [
        ("Equalize", ImageOps.equalize, 1e-3),
        ("AutoContrast", ImageOps.autocontrast, 1.01),
        ("Identity", np.array, 1e-3),
    ],
)
def test_without_magnitude(picture, name, reference, tolerance):
    assert difference(apply(picture, name, 0.7), reference(picture)).max() <= tolerance


@pytest.fixture
def levels():
    """8-bit images, from dark ones with few levels to noise."""
    generator = torch.Generator().manual_seed(0)
    tops = torch.tensor([1, 2, 5, 30, 100, 256])
    noise = torch.rand(6, 3, 33, 41, generator=generator)
    return (noise * tops.view(-1, 1, 1, 1)).floor() / 255


def operate(name, images, magnitudes):
    return OPERATIONS[name].apply(images, magnitudes)


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(OPERATIONS[name], Photometric)])
def test_operation_equals_kornia(levels, name):
    """kornia's operations also follow Pillow."""
    magnitudes = torch.linspace(-0.9, 0.9, len(levels)) * OPERATIONS[name].limit
    factors = 1 + magnitudes
    expected = {
        "Brightness": lambda: enhance.adjust_brightness_accumulative(levels, factors),
        "Color": lambda: enhance.adjust_saturation_with_gray_subtraction(levels, factors),
        "Contrast": lambda: enhance.adjust_contrast_with_mean_subtraction(levels, factors),
        "Sharpness": lambda: enhance.sharpness(levels, factors),
        "Posterize": lambda: enhance.posterize(levels, (8 - magnitudes.abs().round()).int()),
        "Solarize": lambda: enhance.solarize(levels, 1 - magnitudes.abs()),
        "AutoContrast": lambda: enhance.normalize_min_max(levels),
        "Equalize": lambda: enhance.equalize(levels),
    }[name]()
    # kornia adds 1e-6 to the spread.
    tolerance = 3e-4 if name == "AutoContrast" else 1e-5
    torch.testing.assert_close(operate(name, levels, magnitudes), expected, atol=tolerance, rtol=0)


def test_operations_do_not_modify_their_input(levels):
    for name, operation in OPERATIONS.items():
        if isinstance(operation, Photometric):
            given = levels.clone()
            operate(name, given, torch.full((len(levels),), 0.5 * operation.limit))
            assert torch.equal(given, levels), name


def shear_matrix(along_x, along_y):
    """Pillow's output-to-input coefficients for a shear about the centre (SIZE / 2, SIZE / 2)."""
    half = SIZE / 2
    return (1, along_x, -along_x * half, along_y, 1, -along_y * half)


@pytest.mark.parametrize("level", SIGNED)
@pytest.mark.parametrize(
    ("name", "coefficients"),
    [
        ("ShearX", lambda level: shear_matrix(0.99 * level, 0)),
        ("ShearY", lambda level: shear_matrix(0, 0.99 * level)),
        ("TranslateX", lambda level: (1, 0, 32 / 224 * SIZE * level, 0, 1, 0)),
        ("TranslateY", lambda level: (1, 0, 0, 0, 1, 32 / 224 * SIZE * level)),
    ],
)
def test_shear_and_translation(picture, name, coefficients, level):
    reference = picture.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients(level), Image.Resampling.BILINEAR)
    check_geometry(apply(picture, name, level), reference)


@pytest.mark.parametrize("level", SIGNED)
def test_rotation(picture, level):
    check_geometry(apply(picture, "Rotate", level), picture.rotate(135 * level, Image.Resampling.BILINEAR))


def check_geometry(ours, reference):
    """Equal within one level, except at the border to the black outside, where Pillow does not blend."""
    pixels = difference(ours, reference).max(axis=2)
    assert np.quantile(pixels, 0.9) <= 1.01
    seam = np.asarray(reference).max(axis=2) == 0
    assert pixels[~seam].mean() < 6


def test_all_magnitudes_at_strength_zero_change_nothing(picture):
    without_magnitude = {"AutoContrast", "Equalize"}
    for name in set(NAMES) - without_magnitude:
        # Solarize then inverts white alone, which the picture lacks.
        assert difference(apply(picture, name, 0.0), picture).max() < 0.01, name


def test_grouped_equals_one_at_a_time():
    torch.manual_seed(0)
    images = torch.rand(40, 3, 20, 20)
    choices, levels = torch.randint(len(NAMES), (40,)), torch.rand(40) * 2 - 1
    grouped = images.clone()
    apply_operations_(grouped, choices, levels)
    for row in range(40):
        apply_operations_(images[row : row + 1], choices[row : row + 1], levels[row : row + 1])
    torch.testing.assert_close(grouped, images, atol=1e-5, rtol=0)


def test_operations_strengths_and_directions_are_drawn_evenly(monkeypatch):
    """Chi-square tests over 14,000 draws at the 99.9 % quantile, with 13 and 30 degrees of freedom."""
    drawn = []
    monkeypatch.setattr(
        "roadwork.data.augmentation.trivial_augment.apply_operations_",
        lambda images, choices, levels: drawn.append((choices, levels)),
    )
    torch.manual_seed(0)
    trivial_augment_(torch.zeros(14_000, 1, 1, 1), strength=0.5)
    ((choices, levels),) = drawn
    counts = torch.bincount(choices, minlength=14).double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 34.5
    steps = torch.bincount((levels.abs() / 0.5 * 30).round().long(), minlength=31).double()
    assert len(steps) == 31
    expected = 14_000 / 31
    assert ((steps - expected) ** 2 / expected).sum() < 59.7
    assert levels.abs().max() == 0.5
    assert 6_200 < (levels < 0).sum() < 7_200


def test_table_holds_the_paper_s_fourteen_operations():
    assert len(OPERATIONS) == 14
    geometric = {name for name, operation in OPERATIONS.items() if isinstance(operation, Geometric)}
    assert geometric == {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
