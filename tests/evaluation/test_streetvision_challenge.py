"""Challenge pictures step by step, against plain NumPy and Pillow."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from roadwork.data.images import UnreadableImageError
from roadwork.evaluation.streetvision import challenge
from roadwork.evaluation.streetvision.challenge import draw_crop, encode, make_challenges, make_picture

LEVELS = (0, 1, 2, 3)
BILINEAR = Image.Resampling.BILINEAR


class Script:
    """A generator that gives what it was told, in order."""

    def __init__(self, uniforms=(), integers=(), normals=0.0):
        self.uniforms, self.whole, self.normals = list(uniforms), list(integers), normals
        self.bounds = []

    def uniform(self, low, high):
        self.bounds.append((low, high))
        return self.uniforms.pop(0)

    def integers(self, high):
        self.bounds.append(high)
        return self.whole.pop(0)

    def standard_normal(self, shape):
        return np.full(shape, self.normals)


def make_photo(width=400, height=300, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def to_bytes(photo, fmt="JPEG", **options):
    file = io.BytesIO()
    photo.save(file, fmt, **options)
    return file.getvalue()


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (301, 300), (224, 224)])
def test_level_0_is_the_centre_square_resized(size):
    photo = make_photo(*size)
    side = min(size)
    top, left = (size[1] - side) // 2, (size[0] - side) // 2
    square = Image.fromarray(np.asarray(photo)[top : top + side, left : left + side])
    assert np.array_equal(make_picture(photo, 0, None), square.resize((224, 224), BILINEAR))


def test_level_1_rotates_the_photo_and_crops_a_square():
    photo = make_photo()
    script = Script(uniforms=[13.0, 0.3], integers=[70, 40, 0, 0, 0, 0, 0])
    turned = np.asarray(photo.rotate(13.0, Image.Resampling.NEAREST))
    assert (turned[0, 0] == 0).all()
    expected = Image.fromarray(turned[40 : 40 + 190, 70 : 70 + 190]).resize((224, 224), BILINEAR)
    assert np.array_equal(make_picture(photo, 1, script), expected)  # a side of 190: 0.3 of 400 x 300 pixels
    assert script.bounds == [(-20, 20), (0.2, 1.0), 211, 111, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("level", "counts"), [(2, [2, 2, 2, 1, 1]), (3, [3] * 5)])
def test_levels_2_and_3_apply_distortions_in_order(monkeypatch, level, counts):
    done = []
    for name in ("fade_chroma", "coarsen", "add_noise", "blur"):
        real = getattr(challenge, name)
        monkeypatch.setattr(
            challenge,
            name,
            lambda px, value, *a, name=name, real=real: done.append((name, value)) or real(px, value, *a),
        )
    strengths = [count - 1 for count in counts]
    script = Script(uniforms=[0.0, 0.5], integers=[10, 10, *strengths])
    picture = np.asarray(make_picture(make_photo(), level, script), dtype=float)
    assert script.bounds[4:] == counts
    expected = {
        2: [("fade_chroma", 0.4), ("coarsen", 2)],
        3: [("fade_chroma", 0.3), ("coarsen", 3), ("add_noise", 0.002), ("blur", 9)],
    }
    assert done == expected[level]
    plain = np.asarray(make_picture(make_photo(), level, Script([0.0, 0.5], [10, 10, *[0] * 5])), dtype=float)
    assert picture.mean() / plain.mean() == pytest.approx({2: 0.85, 3: 0.725}[level], abs=0.01)


def test_fading_rounds_down_as_the_validator_does():
    pixels = np.asarray(make_photo(64, 64))
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    exact = luma[..., None] + 0.4 * (pixels - luma[..., None])
    assert np.abs(challenge.fade_chroma(pixels, 0.4) - (exact - 0.5)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("factor", [2, 3])
def test_coarsening_is_bilinear_without_antialiasing(factor):
    def resize(values, length):
        count = values.shape[0]
        at = (np.arange(length) + 0.5) * count / length - 0.5
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(count), line), 0, values)

    pixels = np.asarray(make_photo(224, 224))
    expected = pixels.astype(float)
    for length in (224 // factor, 224):
        expected = resize(resize(expected, length).swapaxes(0, 1), length).swapaxes(0, 1)
    assert np.abs(challenge.coarsen(pixels, factor) - expected).max() < 0.51


@pytest.mark.parametrize("kernel", [7, 9])
def test_the_blur_is_a_plain_convolution(kernel):
    radius = kernel // 2
    pixels = np.asarray(make_photo(40, 30), dtype=np.uint8)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * (kernel / 6) ** 2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(pixels.astype(float), ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(0, 1))
    expected = (windows * weights).sum((-2, -1))
    assert np.abs(challenge.blur(pixels, kernel) - expected).max() < 0.51


@pytest.mark.parametrize("variance", [0.001, 0.002])
def test_noise_has_its_variance_in_ycbcr_as_television_has_it(variance):
    grey = np.full((300, 300, 3), 128, dtype=np.uint8)
    noisy = challenge.add_noise(grey, variance, np.random.default_rng(0)) / 255
    luma = noisy @ np.array([0.299, 0.587, 0.114])
    planes = [luma * 219, (noisy[..., 2] - luma) / 1.772 * 224, (noisy[..., 0] - luma) / 1.402 * 224]
    assert [np.var(plane / 255) for plane in planes] == pytest.approx([variance] * 3, rel=0.03)


def test_crops_are_of_20_to_100_percent_where_they_fit():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_crop((800, 600), rng) for _ in range(4000)])
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert np.array_equal(widths, heights)
    assert (boxes >= 0).all()
    assert (boxes[:, 2] <= 800).all()
    assert (boxes[:, 3] <= 600).all()
    assert stats.kstest(widths**2 / 480_000, stats.uniform(0.2, 0.55).cdf).pvalue > 1e-3
    assert stats.kstest(boxes[:, 0] / (800 - widths), stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_a_panorama_s_centre_is_taken():
    assert draw_crop((1200, 200), np.random.default_rng(0)) == (500, 0, 700, 200)


def test_pictures_are_saved_at_pillow_s_default_quality():
    picture = make_picture(make_photo(), 0, None)
    saved, default, at_75, at_90 = (
        encode(picture),
        to_bytes(picture),
        to_bytes(picture, quality=75),
        to_bytes(picture, quality=90),
    )
    assert saved == default == at_75 != at_90


def test_a_challenge_depends_on_id_level_and_seed_alone():
    data = to_bytes(make_photo())
    first = make_challenges(data, LEVELS, "a", 0)
    assert make_challenges(data, LEVELS, "a", 0) == first
    assert make_challenges(data, (2,), "a", 0) == [first[2]]
    for other in (make_challenges(data, LEVELS, "b", 0), make_challenges(data, LEVELS, "a", 1)):
        assert other[0] == first[0]  # level 0 draws nothing
        assert all(mine != theirs for mine, theirs in zip(first[1:], other[1:], strict=True))
    assert [Image.open(io.BytesIO(picture)).size for picture in first] == [(224, 224)] * 4


def test_the_whole_photo_is_decoded_upright():
    photo = make_photo(1200, 800)
    turned = photo.transpose(Image.Transpose.ROTATE_90)  # to be shown turned clockwise: 6
    exif = Image.Exif()
    exif[0x0112] = 6
    data = to_bytes(turned, "PNG", exif=exif)
    expected = make_picture(photo, 0, None)
    assert np.abs(decode(make_challenges(data, (0,), "a", 0)[0]) - decode(encode(expected))).max() == 0
    jpeg = to_bytes(photo, quality=95)
    full = make_picture(Image.open(io.BytesIO(jpeg)), 0, None)
    assert make_challenges(jpeg, (0,), "a", 0) == [encode(full)]


def test_a_damaged_photo_is_named():
    with pytest.raises(UnreadableImageError):
        make_challenges(to_bytes(make_photo())[:500], LEVELS, "a", 0)
