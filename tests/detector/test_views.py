"""Test-time augmentation: the views and their combination."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, JpegImagePlugin

from roadwork.core.errors import ConfigError
from roadwork.data.images import UnreadableImageError, read_pixels
from roadwork.detector.views import N_VIEWS, VIEWS, combine, combine_logits, read_views

SIZE = 32


def encode(image, fmt="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def gradient(width, height, mode="RGB"):
    """An image whose red increases to the right and green increases downwards, up to 240."""
    red = np.broadcast_to(np.linspace(0, 240, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 240, height)[:, None], (height, width))
    pixels = np.stack([red, green, np.full((height, width), 100.0)], axis=-1).round().astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def mean_colours(views):
    return views.float().mean(dim=(2, 3))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("size", [(640, 480), (300, 900), (40, 24), (5, 3)])
def test_first_view_is_the_whole_photo(views, size):
    data = encode(gradient(*size), quality=95)
    read = read_views(data, SIZE, views)
    assert read.shape == (N_VIEWS[views], 3, SIZE, SIZE)
    assert read.dtype == torch.uint8
    whole = read_pixels(data, SIZE)
    if views == "tiles":
        assert (read[0].float() - whole.float()).abs().mean() < 1
    else:
        assert torch.equal(read[0], whole)


def test_flip_is_the_mirror_image():
    data = encode(gradient(200, 100))
    whole, mirrored = read_views(data, SIZE, "flip")
    assert torch.equal(mirrored, torch.from_numpy(whole.numpy()[:, :, ::-1].copy()))


def test_tiles_cover_the_photo_with_overlap():
    colours = mean_colours(read_views(encode(gradient(600, 400), "PNG"), SIZE, "tiles"))[1:, :2].view(3, 3, 2)
    centers = torch.tensor([60.0, 120.0, 180.0])  # of tiles half as wide as the photo, a quarter apart
    assert torch.allclose(colours[..., 0], centers.expand(3, 3), atol=1.5)
    assert torch.allclose(colours[..., 1], centers[:, None].expand(3, 3), atol=1.5)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_tiles_show_the_upright_photo(turn):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turn
    stored = gradient(600, 400).rotate({1: 0, 3: 180, 6: 90, 8: 270}[turn], expand=True)
    upright = read_views(encode(gradient(600, 400), quality=95), SIZE, "tiles")
    turned = read_views(encode(stored, quality=95, exif=exif), SIZE, "tiles")
    assert (upright.float() - turned.float()).abs().mean() < 1


def test_tiles_handle_alpha_and_16_bits_like_the_whole_photo():
    transparent = gradient(200, 100, "RGBA")
    transparent.putalpha(0)
    assert (read_views(encode(transparent, "PNG"), SIZE, "tiles") == 255).all()
    deep = Image.fromarray(np.full((100, 200), 128 * 257, dtype=np.uint16))
    assert (read_views(encode(deep, "PNG"), SIZE, "tiles") == 128).all()


def test_tiles_keep_detail_that_the_whole_photo_loses():
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    stripes = Image.fromarray(stripes).resize((1024, 1024), Image.Resampling.NEAREST)  # 4 pixels black, 4 white
    views = read_views(encode(stripes, quality=95), 128, "tiles").float()
    contrast = views.std(dim=(1, 2, 3))
    assert contrast[1:].min() > 5 * contrast[0]


def test_large_jpeg_is_decoded_small_and_once(monkeypatch):
    decoded = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def spy(image, mode, size):
        drafted = draft(image, mode, size)
        decoded.append(image.size)
        return drafted

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    read_views(encode(gradient(2048, 1536), quality=50), SIZE, "tiles")
    assert decoded == [(256, 192)]


@pytest.mark.parametrize("views", VIEWS)
def test_non_image_is_unreadable(views):
    with pytest.raises(UnreadableImageError):
        read_views(b"not an image", SIZE, views)


def test_unknown_views_are_rejected():
    with pytest.raises(ConfigError, match=r"'many'.*none, flip, tiles"):
        read_views(encode(gradient(20, 20)), SIZE, "many")
    with pytest.raises(ConfigError, match="3 views"):
        combine(torch.zeros(4, 3))


def test_flip_matches_hand_computation():
    assert combine(torch.tensor([[1.5], [-2.0]])).tolist() == [1.5, -2.0]
    assert combine(torch.tensor([[1.0, 2.0], [-3.0, 1.0]])).tolist() == [1.5, -1.0]


def test_tiles_are_a_mixture_of_nine():
    d = torch.randn(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    odds = np.exp(d.numpy())
    expected = (np.log(odds[:, 0]) + np.log(odds[:, 1:].mean(axis=1))) / 2
    assert np.allclose(combine(d).numpy(), expected)


def test_extreme_tiles_do_not_overflow():
    d = torch.full((1, 10), -500.0)
    d[0, 4] = 900.0
    assert combine(d).item() == pytest.approx((-500 + 900 - np.log(9)) / 2)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([1, 2, 10]), st.floats(-30, 30), st.floats(-5, 5), st.integers(0, 1000))
def test_invariants_of_view_combination(n_views, d, shift, seed):
    same = torch.full((1, n_views), d, dtype=torch.float64)
    assert combine(same).item() == pytest.approx(d, abs=1e-9), "views that agree are not more certain than each"
    mixed = torch.randn(3, n_views, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 5
    assert torch.allclose(combine(mixed + shift), combine(mixed) + shift), "a folded threshold keeps its place"
    more = mixed.clone()
    more[:, seed % n_views] += 1
    assert (combine(more) > combine(mixed)).all(), "no view's evidence counts the wrong way"


def test_logits_are_combined_photo_by_photo():
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    combined = combine_logits(logits, 2)
    d = (logits[:, 1] - logits[:, 0]).double()
    assert torch.allclose(combined[:, 1] - combined[:, 0], torch.stack([d[:2].mean(), d[2:4].mean(), d[4:].mean()]))
    assert torch.allclose(combined.sum(dim=1), torch.zeros(3, dtype=torch.float64))
