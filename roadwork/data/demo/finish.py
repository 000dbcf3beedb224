"""What the lens and the sensor add to a drawn picture: rain and noise."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from roadwork.data.demo.light import Light

NOISE_SIZE = (900, 700)  # pictures cut their noise out of this; larger ones enlarge it


def finish(image: Image.Image, light: Light, rng: np.random.Generator) -> Image.Image:
    """The finished picture, with rain where it rains, and noise."""
    if light.is_wet:
        _draw_rain(image, rng)
    return _add_noise(image, float(rng.uniform(0.6, 1.6)), rng)


def _draw_rain(image: Image.Image, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(image, "RGBA")
    scale = image.width / 640
    count = 130
    x, y = rng.uniform(0, image.width, count), rng.uniform(-20, image.height, count)
    length, slant = rng.uniform(8, 26, count) * scale, rng.uniform(-0.25, 0.25)
    for left, top, tall in zip(x.tolist(), y.tolist(), length.tolist(), strict=True):
        draw.line((left, top, left + slant * tall, top + tall), fill=(215, 222, 232, 70), width=1)


@lru_cache(maxsize=1)
def _noise() -> Image.Image:
    """Grey noise around 128 with a standard deviation of 3; the same in every process."""
    values = np.random.default_rng(0).normal(128, 3.0, (NOISE_SIZE[1], NOISE_SIZE[0]))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _add_noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    width, height = image.size
    noise = _noise()
    if width > NOISE_SIZE[0] or height > NOISE_SIZE[1]:
        noise = noise.resize((max(width, NOISE_SIZE[0]), max(height, NOISE_SIZE[1])))
    left, top = int(rng.integers(0, noise.width - width + 1)), int(rng.integers(0, noise.height - height + 1))
    cut = noise.crop((left, top, left + width, top + height))
    if strength < 1.0:
        cut = cut.point([round(128 + (value - 128) * strength) for value in range(256)])
    return ImageChops.add(image, Image.merge("RGB", (cut, cut, cut)), offset=-128)
