"""The challenge augmentation equals Pillow, NumPy and SciPy, and its random choices have the validator's shares."""

import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage, stats

from roadwork.core.errors import ConfigError
from roadwork.data.augmentation import streetvision
from roadwork.data.augmentation import streetvision as distortions
from roadwork.data.augmentation.build import build_train_augmentation
from roadwork.data.augmentation.streetvision import (
    StreetVisionAugmentation,
    draw_crops,
    draw_views,
    render_views,
    view_matrices,
)
from roadwork.settings import TrainAugmentationSettings

ASPECTS = [4 / 3, 16 / 9, 3 / 4, 1.0]
SURE = 1e-3  # the seeds are fixed: no test fails by chance


def make_photo(width=800, height=600, seed=0):
    """A smooth, colourful image without symmetry."""
    coarse = np.random.default_rng(seed).integers(20, 236, (7, 9, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def to_batch(*pictures):
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1).float() / 255 for p in pictures])


def to_levels(images):
    """(H, W, 3) in 0 to 255 from a batch of one."""
    return images[0].permute(1, 2, 0).numpy() * 255


@pytest.fixture
def pixels():
    rng = np.random.default_rng(1)
    noisy = np.asarray(make_photo(224, 224), dtype=float) + rng.normal(0, 12, (224, 224, 3))
    return noisy.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize(("angle_deg", "side", "right", "down"), [(17, 0.7, 0.02, -0.15), (-20, 0.5, -0.1, 0.2)])
def test_views_equal_pillow_rotate_crop_and_resize(aspect, angle_deg, side, right, down):
    photo = make_photo(round(600 * aspect), 600)
    left, top = photo.width / 2 + 600 * (right - side / 2), 300 + 600 * (down - side / 2)
    box = [round(edge) for edge in (left, top, left + 600 * side, top + 600 * side)]
    turned = photo.rotate(angle_deg, Image.Resampling.NEAREST)
    expected = np.asarray(turned.crop(box).resize((224, 224), Image.Resampling.BILINEAR), dtype=float)
    squashed = to_batch(photo.resize((224, 224), Image.Resampling.BICUBIC))
    matrices = view_matrices(torch.tensor([angle_deg]), torch.tensor([side]), torch.tensor([[right, down]]), aspect)
    ours = to_levels(render_views(squashed, matrices))
    difference = np.abs(ours - expected)
    assert difference.mean() < 1.0
    assert np.percentile(difference, 99) < 6  # the border to the black is a pixel wide
    ours_black, black = (picture.max(2) < 2 for picture in (ours, expected))
    assert black.any()
    assert (ours_black ^ black).mean() < 0.05 * black.mean() + 0.005


def test_bilinear_sampling_beats_nearest_pixels_of_a_small_copy():
    photo = make_photo(1600, 1200)
    detailed = Image.fromarray(
        (np.asarray(photo) * (0.7 + 0.3 * np.sin(np.arange(1600) / 9))[None, :, None]).astype("u1")
    )
    turned = detailed.rotate(11, Image.Resampling.NEAREST).crop((350, 150, 1250, 1050))
    expected = np.asarray(turned.resize((224, 224), Image.Resampling.BILINEAR), dtype=float)
    squashed = to_batch(detailed.resize((224, 224), Image.Resampling.BICUBIC))
    matrices = view_matrices(torch.tensor([11]), torch.tensor([0.75]), torch.zeros(1, 2), 4 / 3)
    grid = F.affine_grid(matrices[:, :2], [1, 3, 224, 224], align_corners=False)
    nearest = F.grid_sample(squashed, grid, mode="nearest", align_corners=False)
    ours, other = (
        np.abs(to_levels(images) - expected).mean() for images in (render_views(squashed, matrices), nearest)
    )
    assert ours < 0.8 * other


@pytest.mark.parametrize("aspect", ASPECTS)
def test_level_0_is_the_centre_square(aspect):
    photo = make_photo(round(600 * aspect), 600)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BILINEAR)
    squashed = to_batch(photo.resize((224, 224), Image.Resampling.BICUBIC))
    ours = to_levels(render_views(squashed, draw_views(torch.zeros(1, dtype=torch.bool), aspect)))
    assert np.abs(ours - np.asarray(square, dtype=float)).mean() < 1.0


@pytest.mark.parametrize(("chroma", "value"), [(0.4, 1.0), (1.0, 0.725), (0.3, 0.85)])
def test_chroma_is_scaled_before_values(pixels, chroma, value):
    red, green, blue = np.moveaxis(pixels.astype(float), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cb, cr = 0.564 * (blue - y) * chroma, 0.713 * (red - y) * chroma
    expected = value * np.stack([y + 1.403 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.773 * cb], axis=-1)
    ours = to_levels(distortions.scale_chroma(to_batch(pixels), torch.tensor([chroma]), torch.tensor([value])))
    assert np.abs(ours - expected).max() < 0.6  # those weights have three digits


def test_zero_chroma_is_grey(pixels):
    grey = distortions.scale_chroma(to_batch(pixels), torch.zeros(1), torch.ones(1))
    assert torch.allclose(grey[:, 0], grey[:, 2])


@pytest.mark.parametrize("factor", [2, 3])
def test_downsampling_is_bilinear_without_antialiasing(pixels, factor):
    def resize(values, length):
        count = values.shape[0]
        at = (np.arange(length) + 0.5) * count / length - 0.5
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(count), line), 0, values)

    expected = pixels.astype(float)
    for length in (224 // factor, 224):
        expected = resize(resize(expected, length).swapaxes(0, 1), length).swapaxes(0, 1)
    ours = to_levels(distortions.downsample(to_batch(pixels), factor))
    assert np.abs(ours - expected).max() < 0.01


@pytest.mark.parametrize("kernel", [7, 9])
def test_blur_is_scipy_s_gaussian(pixels, kernel):
    sigma = kernel / 6
    expected = ndimage.gaussian_filter(
        pixels.astype(float), (sigma, sigma, 0), mode="mirror", radius=(kernel // 2, kernel // 2, 0)
    )
    assert np.abs(to_levels(distortions.blur(to_batch(pixels), kernel)) - expected).max() < 0.01


@pytest.mark.parametrize("kernel", [7, 9])
def test_blur_spreads_a_dot_by_a_sixth_of_its_kernel(kernel):
    dot = torch.zeros(1, 3, 31, 31)
    dot[..., 15, 15] = 1
    spread = distortions.blur(dot, kernel)[0, 0].double()
    offsets = torch.arange(31) - 15
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * offsets**2).sum() == pytest.approx((kernel / 6) ** 2, rel=0.04)  # its tails are cut off
    assert int((spread > 0).any(0).sum()) == kernel


def test_noise_has_its_variance_in_ycbcr_as_television_has_it():
    variances = torch.tensor([0.001, 0.002])
    torch.manual_seed(0)
    noisy = distortions.add_noise(torch.full((2, 3, 224, 224), 0.5), variances).double().numpy() - 0.5
    for image, variance in zip(noisy, variances.tolist(), strict=True):
        red, green, blue = image
        y = 0.299 * red + 0.587 * green + 0.114 * blue
        planes = np.stack([y * 219 / 255, (blue - y) / 1.772 * 224 / 255, (red - y) / 1.402 * 224 / 255])
        covariance = np.cov(planes.reshape(3, -1))
        assert np.diag(covariance) == pytest.approx([variance] * 3, rel=0.03)
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.03 * variance
        assert np.abs(planes.mean((1, 2))).max() < 4 * math.sqrt(variance) / 224


def test_noise_is_independent_per_image_and_pixel():
    torch.manual_seed(0)
    noisy = distortions.add_noise(torch.full((2, 3, 64, 64), 0.5), torch.tensor([0.001, 0.001]))
    flat = noisy.flatten(1).numpy()
    assert abs(np.corrcoef(flat)[0, 1]) < 0.03
    assert abs(np.corrcoef(noisy[0, 0, :, 1:].flatten(), noisy[0, 0, :, :-1].flatten())[0, 1]) < 0.05


def test_views_turn_within_20_degrees_and_never_mirror():
    torch.manual_seed(0)
    matrices = draw_views(torch.ones(4000, dtype=torch.bool), 1.0)
    angles_deg = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert stats.kstest(angles_deg.numpy(), stats.uniform(-20, 40).cdf).pvalue > SURE
    assert (torch.linalg.det(matrices) > 0).all()
    assert (matrices[:, [0, 1], [0, 1]] > 0).all()


@pytest.mark.parametrize(("aspect", "largest"), [(1.0, 1.0), (4 / 3, 0.75), (0.5, 0.5)])
def test_crops_are_squares_inside_the_photo(aspect, largest):
    torch.manual_seed(0)
    sides, offsets = draw_crops(4000, aspect)
    room = np.stack([aspect - sides, 1 - sides], axis=1)
    assert (np.abs(offsets.numpy()) <= room / 2 + 1e-6).all()
    is_centred = (offsets == 0).all(1).numpy()  # the few that did not fit ten times
    chance = ((1 - largest) / 0.8) ** 10
    assert stats.binomtest(int(is_centred.sum()), 4000, chance).pvalue > SURE
    shares = (sides**2 / aspect).numpy()
    assert np.allclose(shares[is_centred], largest)
    assert stats.kstest(shares[~is_centred], stats.uniform(0.2, largest - 0.2).cdf).pvalue > SURE
    for axis in (0, 1):
        places = offsets[~is_centred, axis].numpy() / room[~is_centred, axis]
        assert stats.kstest(places, stats.uniform(-0.5, 1).cdf).pvalue > SURE


def test_panorama_is_cropped_in_its_centre():
    sides, offsets = draw_crops(50, 5.0)
    assert torch.equal(sides, torch.ones(50))
    assert not offsets.any()


@pytest.fixture
def drawn_levels(monkeypatch):
    """The levels of 4,000 images, drawn without rendering."""
    seen = []
    monkeypatch.setattr(streetvision, "render_views", lambda images, matrices: images)
    monkeypatch.setattr(streetvision, "compress", lambda images, qualities: images)
    draw = streetvision.draw_strengths
    monkeypatch.setattr(streetvision, "draw_strengths", lambda levels: seen.append(levels) or draw(levels))
    torch.manual_seed(0)
    StreetVisionAugmentation(8)(torch.rand(4000, 3, 8, 8), torch.zeros(4000, dtype=torch.int64))
    return torch.cat(seen)


def test_levels_are_equally_likely(drawn_levels):
    assert stats.chisquare(np.bincount(drawn_levels.numpy(), minlength=4)).pvalue > SURE


@pytest.mark.parametrize(("level", "choices"), [(0, [1] * 5), (1, [1] * 5), (2, [2, 2, 2, 1, 1]), (3, [3] * 5)])
def test_strengths_are_uniform_and_independent(level, choices):
    torch.manual_seed(level)
    strengths = distortions.draw_strengths(torch.full((3000,), level)).numpy()
    for column, count in zip(strengths.T, choices, strict=True):
        counts = np.bincount(column)
        assert len(counts) == count
        assert count == 1 or stats.chisquare(counts).pvalue > SURE
    drawn = [column for column, count in zip(strengths.T, choices, strict=True) if count > 1]
    for place, first in enumerate(drawn):
        for second in drawn[:place]:
            table = np.histogram2d(first, second, bins=[choices[0]] * 2)[0]
            assert stats.chi2_contingency(table).pvalue > SURE


def test_distortions_run_in_validator_order_with_their_strength(monkeypatch, pixels):
    done = []
    for name in ("scale_chroma", "downsample", "add_noise", "blur"):
        real = getattr(distortions, name)

        def record(images, *values, name=name, real=real, **named):
            done.append((name, *(value.tolist() for value in values), *named.values()))
            return real(images, *values, **named)

        monkeypatch.setattr(distortions, name, record)
    images = to_batch(*[pixels] * 3)
    before = images.clone()
    distortions.distort_(images, torch.tensor([[0, 0, 0, 0, 0], [1, 2, 1, 2, 2], [2, 0, 2, 1, 1]]))
    names = [name for name, *_ in done]
    assert names == ["scale_chroma", "downsample", "downsample", "add_noise", "blur", "blur"]
    values = [np.ravel(values).round(4).tolist() for _, *values in done]
    assert values == [[0.4, 0.3, 0.725, 1.0], [2], [3], [0.002, 0.001], [7], [9]]
    changed = (images != before).flatten(1).any(1)
    assert changed.tolist() == [False, True, True]


def test_jpeg_at_pillow_s_default_comes_last(monkeypatch, pixels):
    monkeypatch.setattr(streetvision, "LEVELS", 1)
    augmented, _ = StreetVisionAugmentation(224, photo_aspect=1.0)(to_batch(pixels), torch.zeros(1, dtype=torch.int64))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    theirs = np.asarray(Image.open(file), dtype=float)
    damage = np.abs(theirs - pixels).mean()
    assert damage > 2
    assert np.abs(to_levels(augmented) - theirs).mean() < 0.3 * damage


@pytest.mark.parametrize("size", [96, 224, 300, 448])
def test_distortions_run_at_224_pixels_for_any_input_size(monkeypatch, size):
    seen = []
    monkeypatch.setattr(streetvision, "distort_", lambda images, strengths: seen.append(tuple(images.shape)))
    augmented, _ = StreetVisionAugmentation(size)(torch.rand(2, 3, size, size), torch.zeros(2, dtype=torch.int64))
    assert seen == [(2, 3, 224, 224)]
    assert augmented.shape == (2, 3, size, size)


def test_downsampling_a_large_picture_skips_no_pixel():
    board = (torch.arange(448).view(-1, 1) + torch.arange(448)).remainder(2).float().expand(1, 3, -1, -1)
    views = draw_views(torch.zeros(1, dtype=torch.bool), 1.0)
    assert (render_views(board, views) - 0.5).abs().max() < 1e-3


@pytest.mark.parametrize("aspect", [0.1, 6, math.nan])
def test_aspect_out_of_range_is_rejected(aspect):
    with pytest.raises(ConfigError, match="photo_aspect"):
        StreetVisionAugmentation(64, photo_aspect=aspect)
    with pytest.raises(ConfigError, match=r"train\.photo_aspect"):
        TrainAugmentationSettings(photo_aspect=aspect)


def test_aspect_of_the_settings_is_used():
    built = build_train_augmentation(TrainAugmentationSettings(mode="streetvision", photo_aspect=1.5), img_size=64)
    assert built.photo_aspect == 1.5
