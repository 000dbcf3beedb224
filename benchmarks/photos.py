"""Generates 12-megapixel JPEGs with photo-like statistics: smooth areas, rough textures and sharp edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Size = tuple[int, int]
N_HOUSES = 12
N_CABLES = 6
# The octaves of the texture: grain size in pixels, and standard deviation.
OCTAVES = ((40, 14.0), (12, 12.0), (4, 12.0), (2, 16.0), (1, 9.0))


def make_photos(folder: Path, n: int, seed: int = 0, size: Size = (4032, 3024), quality: int = 90) -> list[Path]:
    """Writes `n` JPEGs of `size` (width, height) in pixels and returns their paths. Reproducible for a given seed.

    At the default size and quality a file has 3 to 5 MB, like a phone photo.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"photo_{number:05d}.jpg" for number in range(n)]
    for number, path in enumerate(paths):
        draw_photo(np.random.default_rng([seed, number]), size).save(path, quality=quality)
    return paths


def draw_photo(rng: np.random.Generator, size: Size) -> Image.Image:
    """Draws a YCbCr image of houses and cables on noise, with smooth and rough areas."""
    scene = Image.fromarray(_to_bytes(128 + _noise(rng, size, max(size) // 6, 45.0)))
    _draw_edges(rng, scene)
    texture = np.zeros((size[1], size[0]), dtype=np.float32)
    for pixels, strength in OCTAVES:
        texture += _noise(rng, size, pixels, strength)
    roughness = np.clip(_noise(rng, size, max(size) // 8, 0.6) + rng.uniform(0.45, 0.95), 0.06, 1.0)
    luma = Image.fromarray(_to_bytes(np.asarray(scene, dtype=np.float32) + roughness * texture))
    chroma = [Image.fromarray(_to_bytes(128 + _noise(rng, size, max(size) // 30, 11.0))) for _ in range(2)]
    return Image.merge("YCbCr", [luma, *chroma])


def _noise(rng: np.random.Generator, size: Size, pixels: int, strength: float) -> np.ndarray:
    """Returns (H, W) float32 smooth noise with grains of `pixels` pixels and a standard deviation near `strength`."""
    coarse = tuple(max(2, side // max(1, pixels)) for side in size)
    values = strength * rng.standard_normal((coarse[1], coarse[0]), dtype=np.float32)
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR))


def _draw_edges(rng: np.random.Generator, scene: Image.Image) -> None:
    width, height = scene.size
    draw = ImageDraw.Draw(scene)
    for _ in range(N_HOUSES):
        left, top = rng.uniform(0, 0.9) * width, rng.uniform(0.2, 0.7) * height
        right, bottom = left + rng.uniform(0.05, 0.2) * width, top + rng.uniform(0.1, 0.3) * height
        wall, glass = rng.integers(30, 230, 2).tolist()
        draw.rectangle((left, top, right, bottom), fill=wall)
        step = max(4.0, width / 70)
        for x in np.arange(left + step / 2, right - step, step):
            for y in np.arange(top + step / 2, bottom - step, step):
                draw.rectangle((x, y, x + step / 2, y + step / 2), fill=glass)
    for _ in range(N_CABLES):
        ends = rng.uniform(0, 1, 4) * (width, height, width, height)
        draw.line(ends.tolist(), fill=int(rng.integers(0, 60)), width=max(1, width // 500))


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)
