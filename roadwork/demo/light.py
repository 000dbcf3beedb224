"""Weather, time of day, and sensor noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

RGB = tuple[int, int, int]

# (weather, time of day): share of scenes
CONDITIONS = {
    ("clear", "day"): 0.36,
    ("overcast", "day"): 0.24,
    ("rain", "day"): 0.14,
    ("clear", "dusk"): 0.16,
    ("rain", "dusk"): 0.10,
}
SKIES: dict[tuple[str, str], tuple[RGB, RGB]] = {
    ("clear", "day"): ((74, 132, 205), (196, 220, 238)),
    ("overcast", "day"): ((150, 158, 168), (206, 210, 213)),
    ("rain", "day"): ((112, 121, 133), (172, 179, 186)),
    ("clear", "dusk"): ((44, 54, 104), (240, 158, 104)),
    ("rain", "dusk"): ((40, 45, 62), (104, 96, 104)),
}
GAINS = {
    ("clear", "day"): (1.04, 1.02, 0.98),
    ("overcast", "day"): (0.88, 0.90, 0.93),
    ("rain", "day"): (0.72, 0.75, 0.80),
    ("clear", "dusk"): (0.74, 0.65, 0.66),
    ("rain", "dusk"): (0.58, 0.57, 0.64),
}
HAZE_PER_M = {"clear": 0.0035, "overcast": 0.006, "rain": 0.012}
NOISE_SIZE = (900, 700)  # images use a random crop of this; larger images scale it up


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """Linear interpolation from the first colour (share 0) to the second (share 1)."""
    rest = 1.0 - share
    return (
        int(first[0] * rest + second[0] * share),
        int(first[1] * rest + second[1] * share),
        int(first[2] * rest + second[2] * share),
    )


@dataclass(frozen=True)
class Light:
    """How weather and time of day change colours.

    Attributes:
        weather: ``clear``, ``overcast`` or ``rain``.
        time_of_day: ``day`` or ``dusk``.
        zenith: colour of the sky above.
        haze: colour of the sky at the horizon, and of distant objects.
        gain: factors on red, green and blue.
        haze_per_m: rate at which objects fade into the haze.
        sunny_side: 1 or -1, the side of the street whose facades face the sun.
        contrast: factor between the sunny and the shaded side.
        saturation: 0 is grey, 1 leaves colours unchanged.
    """

    weather: str
    time_of_day: str
    zenith: RGB
    haze: RGB
    gain: tuple[float, float, float]
    haze_per_m: float
    sunny_side: int
    contrast: float
    saturation: float

    @property
    def is_lit(self) -> bool:
        """Whether lamps, windows and headlights are on."""
        return self.time_of_day == "dusk"

    @property
    def is_wet(self) -> bool:
        return self.weather == "rain"

    def tone(self, colour: RGB, distance_m: float, shade: float = 1.0) -> RGB:
        """The colour as seen from this distance."""
        grey = (colour[0] * 0.3 + colour[1] * 0.59 + colour[2] * 0.11) * (1.0 - self.saturation)
        clear = math.exp(-self.haze_per_m * distance_m)
        gain, haze, vivid, fog = self.gain, self.haze, self.saturation, 1.0 - clear
        clear *= shade
        return (
            min(255, int((colour[0] * vivid + grey) * gain[0] * clear + haze[0] * fog)),
            min(255, int((colour[1] * vivid + grey) * gain[1] * clear + haze[1] * fog)),
            min(255, int((colour[2] * vivid + grey) * gain[2] * clear + haze[2] * fog)),
        )

    def shade(self, side: float) -> float:
        """Brightness factor for surfaces on this side of the street."""
        return 1.0 if side * self.sunny_side > 0 else self.contrast


def draw_light(rng: np.random.Generator, condition: tuple[str, str], warmth: float) -> Light:
    """Random light of a scene; a warmth below 1 makes it bluer, above 1 yellower."""
    weather, _ = condition
    exposure = rng.uniform(0.74, 1.16)
    cast = rng.normal(0.0, 0.05, 3)
    red, green, blue = (gain * exposure * (1 + shift) for gain, shift in zip(GAINS[condition], cast, strict=True))
    zenith, haze = SKIES[condition]
    tint: RGB = (int(rng.integers(120, 256)), int(rng.integers(120, 220)), int(rng.integers(120, 256)))
    return Light(
        *condition,
        zenith=mix(zenith, tint, rng.uniform(0.0, 0.18)),
        haze=mix(haze, tint, rng.uniform(0.0, 0.18)),
        gain=(red * warmth, green, blue / warmth),
        haze_per_m=HAZE_PER_M[weather] * rng.uniform(0.7, 1.4),
        sunny_side=int(rng.choice((-1, 1))),
        contrast=rng.uniform(0.66, 0.8) if weather == "clear" else rng.uniform(0.86, 0.95),
        saturation=rng.uniform(0.5, 1.05),
    )


@dataclass(frozen=True)
class Sensor:
    """What a camera changes in its images.

    Attributes:
        tint: factors on red, green and blue.
        contrast: 0 is grey, 1 leaves values unchanged.
        blur: radius as a share of the width.
    """

    tint: tuple[float, float, float]
    contrast: float
    blur: float

    def apply(self, image: Image.Image) -> Image.Image:
        curves = [
            [min(255, round(factor * (128 + self.contrast * (value - 128)))) for value in range(256)]
            for factor in self.tint
        ]
        soft = image.filter(ImageFilter.GaussianBlur(self.blur * image.width))
        return soft.point([value for curve in curves for value in curve])


def finish(image: Image.Image, light: Light, rng: np.random.Generator, sensor: Sensor | None = None) -> Image.Image:
    """The image with rain (if the weather has it), as the camera sees it, and sensor noise."""
    if light.is_wet:
        _draw_rain(image, rng)
    if sensor is not None:
        image = sensor.apply(image)
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
