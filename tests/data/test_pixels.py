"""The network input is the image, scaled to the unit range and normalised."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from roadwork.data.images import UnreadableImageError, normalise, read_pixels, to_network_input, to_unit_range
from roadwork.models.processor import IMAGENET_STATISTICS, UNNORMALISED, ImageStatistics

STATISTICS = ImageStatistics(mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 2.0))


def jpeg(image, **options):
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def test_pixels_are_channels_first_and_upright():
    thirds = Image.new("RGB", (300, 100), (250, 0, 0))
    thirds.paste((0, 0, 250), (0, 0, 150, 100))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down: blue is on the right
    pixels = read_pixels(jpeg(thirds, quality=95, exif=exif), 32)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.uint8)
    assert pixels.is_contiguous()
    red, green, blue = pixels.float()
    assert min(red[:, :12].min(), blue[:, 20:].min()) > 230
    assert max(red[:, 20:].max(), blue[:, :12].max()) < 20
    assert green.max() < 20


def test_non_image_is_reported_by_name():
    with pytest.raises(UnreadableImageError, match="not a JPEG"):
        read_pixels(b"<html>", 32)


@pytest.mark.parametrize("statistics", [STATISTICS, IMAGENET_STATISTICS, UNNORMALISED])
def test_every_value_of_every_channel(statistics):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = torch.from_numpy(np.stack([values, 255 - values, values.T])[None].repeat(2, axis=0))
    before = images.clone()
    found = to_network_input(images, statistics)
    mean, std = (np.array(v, dtype=np.float64).reshape(1, 3, 1, 1) for v in (statistics.mean, statistics.std))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), (before.numpy() / 255 - mean) / std, rtol=0, atol=1e-6)
    assert torch.equal(images, before)
    assert torch.equal(found, normalise(to_unit_range(images), statistics))


def test_image_does_not_depend_on_its_batch():
    images = torch.randint(0, 256, (5, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together = to_network_input(images, STATISTICS)
    for alone, of_batch in zip(images, together, strict=True):
        assert torch.equal(to_network_input(alone[None], STATISTICS)[0], of_batch)
