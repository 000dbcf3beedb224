"""Challenge images as the StreetVision validator makes them: from the whole photo, in 8-bit steps."""

from __future__ import annotations

import hashlib
import io
import math

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from roadwork.data.augmentation import streetvision
from roadwork.data.augmentation.color import CHROMA_TO_RGB, LUMA_WEIGHTS
from roadwork.data.augmentation.streetvision import (
    BLUR_KERNELS,
    CHROMA_FACTORS,
    CHROMA_RANGE,
    CROP_TRIES,
    DOWNSAMPLINGS,
    LUMA_RANGE,
    MAX_ANGLE_DEG,
    MAX_CROP_SHARE,
    MIN_CROP_SHARE,
    NOISE_VARIANCES,
    SIZE,
    STRENGTHS,
    VALUE_FACTORS,
)
from roadwork.data.images import MAX_JPEG_SIDE, decode_short_side

Box = tuple[int, int, int, int]


def make_challenges(data: bytes, levels: tuple[int, ...], row_id: str, seed: int) -> list[bytes]:
    """The JPEG of a photo's challenge image at each level.

    Args:
        data: the encoded photo. It is decoded upright, as everywhere in roadwork.
        levels: 0 to 3.
        row_id: the draws depend on it, the level and the seed alone.
        seed: 0 is a seed.

    Raises:
        UnreadableImageError: as `roadwork.data.images.decode_image`.
    """
    photo = Image.fromarray(decode_short_side(data, MAX_JPEG_SIDE))
    return [encode(make_picture(photo, level, _generator(row_id, level, seed))) for level in levels]


def _generator(row_id: str, level: int, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{level}/{row_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def make_picture(photo: Image.Image, level: int, rng: np.random.Generator) -> Image.Image:
    """The challenge image of an RGB photo, 224 x 224 pixels, before it is saved."""
    if level == 0:
        return _cut(photo, centre_square(photo.size))
    angle_deg = rng.uniform(-MAX_ANGLE_DEG, MAX_ANGLE_DEG)
    turned = photo.rotate(angle_deg, Image.Resampling.NEAREST, fillcolor=(0, 0, 0))
    picture = _cut(turned, draw_crop(photo.size, rng))
    chroma, values, resolution, noise, blurred = (int(rng.integers(count)) for count in STRENGTHS[level])
    pixels = np.asarray(picture)
    if chroma:
        pixels = fade_chroma(pixels, CHROMA_FACTORS[chroma])
    if values:
        pixels = _round_down(pixels * VALUE_FACTORS[values])
    if resolution:
        pixels = coarsen(pixels, DOWNSAMPLINGS[resolution])
    if noise:
        pixels = add_noise(pixels, NOISE_VARIANCES[noise], rng)
    if blurred:
        pixels = blur(pixels, BLUR_KERNELS[blurred])
    return Image.fromarray(pixels)


def encode(picture: Image.Image) -> bytes:
    """The JPEG of a picture at Pillow's default quality."""
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return file.getvalue()


def _cut(photo: Image.Image, box: Box) -> Image.Image:
    return photo.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def centre_square(size: tuple[int, int]) -> Box:
    """Left, top, right and bottom of the largest square in the middle of a photo of this width and height."""
    width, height = size
    side = min(size)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return left, top, left + side, top + side


def draw_crop(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A random square of a share of the photo's area; the centre square where ten draws in a row are too large."""
    width, height = size
    for _ in range(CROP_TRIES):
        side = round(math.sqrt(width * height * rng.uniform(MIN_CROP_SHARE, MAX_CROP_SHARE)))
        if 0 < side <= min(size):
            left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
            return left, top, left + side, top + side
    return centre_square(size)


def fade_chroma(pixels: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 whose differences from their own luma are scaled."""
    luma = (pixels @ np.array(LUMA_WEIGHTS))[..., None]
    return _round_down(luma + factor * (pixels - luma))


def coarsen(pixels: np.ndarray, factor: int) -> np.ndarray:
    """(S, S, 3) uint8 shrunk and enlarged again as OpenCV does; Pillow would antialias, or round down twice."""
    planes = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]
    return _round_down(streetvision.downsample(planes, factor)[0].permute(1, 2, 0).numpy() + 0.5)


def add_noise(pixels: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 with Gaussian noise in the YCbCr of television, whose values are taken from 0 to 1."""
    noise = 255 * math.sqrt(variance) * rng.standard_normal(pixels.shape)
    chroma = noise[..., 1:] @ np.array(CHROMA_TO_RGB).T / CHROMA_RANGE
    return _round_down(pixels + noise[..., :1] / LUMA_RANGE + chroma)


def blur(pixels: np.ndarray, kernel: int) -> np.ndarray:
    """(H, W, 3) uint8 under a Gaussian of `kernel` pixels, mirrored at the border."""
    sigma, radius = kernel / 6, kernel // 2
    blurred = gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0), mode="mirror", radius=(radius, radius, 0))
    return _round_down(blurred + 0.5)


def _round_down(values: np.ndarray) -> np.ndarray:
    levels: np.ndarray = values.clip(0, 255).astype(np.uint8)
    return levels
