"""Images of a copy are upright, of the right size, never enlarged, and close to the photo."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from roadwork.data.images import UnreadableImageError, decode_image, decode_short_side
from roadwork.data.prepared.plan import encode_jpeg


def photo(width, height):
    """An image with large shapes, edges and noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    pixels = np.asarray(coarse, dtype=np.int16) + rng.normal(0, 6, (height, width, 3)).astype(np.int16)
    pixels[:: height // 9] -= 60
    pixels[:, :: width // 11] += 50
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image, fmt="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, fmt, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("stored", "short_side", "expected"),
    [
        ((1600, 1200), 258, (258, 344)),
        ((1200, 1600), 258, (344, 258)),
        ((1000, 1000), 37, (37, 37)),
        ((300, 200), 258, (200, 300)),  # smaller already
        ((258, 300), 258, (300, 258)),
        ((2000, 3), 258, (3, 2000)),
        ((3000, 4), 2, (2, 1500)),
    ],
)
@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_sizes(stored, short_side, expected, fmt):
    data = encode(Image.new("RGB", stored, "teal"), fmt)
    assert decode_short_side(data, short_side).shape == (*expected, 3)


def test_side_above_the_jpeg_limit_is_squashed():
    pixels = decode_short_side(encode(Image.new("RGB", (70_000, 2)), "PNG"), 258)
    assert pixels.shape == (2, 65_000, 3)
    assert encode_jpeg(pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_equals_pillow(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo(800, 600), quality=95, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    size = (100, 133) if orientation >= 5 else (133, 100)
    expected = np.asarray(upright.resize(size, Image.Resampling.BICUBIC), dtype=float)
    ours = decode_short_side(data, 100)
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).mean() < 1


def test_unreadable():
    with pytest.raises(UnreadableImageError):
        decode_short_side(b"nothing", 100)


@pytest.mark.parametrize(("width", "height"), [(1600, 1200), (900, 1600)])
@pytest.mark.parametrize("size", [96, 224])
def test_copy_is_close_to_the_photo(width, height, size):
    data = encode(photo(width, height), quality=90)
    through_copy = decode_image(encode_jpeg(decode_short_side(data, -(-size * 115 // 100))), size)
    assert np.abs(through_copy.astype(int) - decode_image(data, size)).mean() <= 1.5
