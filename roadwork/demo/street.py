"""Draws the sky, the ground, the road surface and its markings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageFilter

from roadwork.demo.canvas import Camera, Canvas
from roadwork.demo.cities import WHITE, Look
from roadwork.demo.light import RGB, Light, mix

LANE_M = 3.3
FAR_M = 400.0
SKYLINE_M = 190.0
BANDS_M = (1.2, 5.0, 10.0, 18.0, 32.0, 60.0, 120.0, FAR_M)  # distances at which the haze on the road changes


@dataclass(frozen=True)
class Street:
    """Ground plan of one street; lengths in metres.

    Attributes:
        half_road: from the centre line to the kerb.
        half_width: from the centre line to the outer edge of the sidewalk.
        has_parking: whether cars park along both kerbs.
        crossing_z: position of a zebra crossing, or None.
        patches: (K, 5) repaired asphalt: x0, x1, z0, z1 and brightness.
        bike_lane: its colour, or None.
        skyline: (K, 3) buildings at the far end: x0, x1 and height.
    """

    look: Look
    half_road: float
    half_width: float
    has_parking: bool
    asphalt: RGB
    sidewalk: RGB
    verge: RGB
    crossing_z: float | None
    patches: np.ndarray
    bike_lane: RGB | None
    skyline: np.ndarray

    @property
    def drive_x(self) -> float:
        """Middle of the camera's lane."""
        return LANE_M * (self.look.lanes - 0.5)

    @property
    def lane_edge(self) -> float:
        """Outer edge of the driven lanes."""
        return LANE_M * self.look.lanes


def plan_street(look: Look, rng: np.random.Generator) -> Street:
    has_parking = bool(rng.random() < 0.6)
    half_road = LANE_M * look.lanes + (2.2 if has_parking else 0.5)
    grey = int(rng.integers(76, 116))
    tint = rng.integers(-4, 5, 3)
    count = int(rng.integers(1, 6))
    x0, z0 = rng.uniform(-half_road, half_road - 1.5, count), rng.uniform(3, 45, count)
    patches = np.stack(
        [x0, x0 + rng.uniform(0.7, 2.6, count), z0, z0 + rng.uniform(1, 12, count), rng.uniform(0.74, 1.14, count)], 1
    )
    pavement = int(rng.integers(128, 176))
    return Street(
        look=look,
        half_road=half_road,
        half_width=half_road + rng.uniform(2.4, 4.2),
        has_parking=has_parking,
        asphalt=(grey + int(tint[0]), grey + int(tint[1]), grey + 3 + int(tint[2])),
        sidewalk=(pavement, pavement - int(rng.integers(0, 8)), pavement - int(rng.integers(2, 18))),
        verge=(92, 128, 62) if look.setback > 1 else (pavement, pavement - 6, pavement - 12),
        crossing_z=rng.uniform(14, 40) if rng.random() < 0.3 else None,
        patches=patches,
        bike_lane=(150, 76, 62) if look.roof == "gable" else None,
        skyline=_draw_skyline(look, rng),
    )


def _draw_skyline(look: Look, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(rng.uniform(9, 24, 14)) - 115.0
    return np.stack([edges[:-1], edges[1:], 3.1 * rng.uniform(look.floors[0], look.floors[1] * 1.5, 13)], 1)


def draw_sky(size: tuple[int, int], horizon: float, light: Light, rng: np.random.Generator) -> Image.Image:
    """A gradient from zenith to horizon with clouds of smoothed noise, on a canvas of this size."""
    width, height = 160, 120
    cover = {"clear": 0.62, "overcast": 0.3, "rain": 0.2}[light.weather] + rng.uniform(-0.12, 0.12)
    clouds = np.zeros((height, width))
    for octave, weight in ((4, 0.45), (9, 0.3), (20, 0.15), (44, 0.1)):
        noise = Image.fromarray(rng.random((octave, octave), dtype=np.float32))
        clouds += weight * np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
    rows = np.linspace(0, 1, height)[:, None, None] * size[1] / horizon
    sky = np.array(light.zenith) * (1 - np.clip(rows, 0, 1)) + np.array(light.haze) * np.clip(rows, 0, 1)
    white = mix(light.haze, (255, 255, 255) if light.weather == "clear" else light.zenith, 0.55)
    mask = np.clip((clouds - cover) * 5, 0, 0.85)[:, :, None] * np.clip(1.25 - rows, 0, 1)
    sky = sky * (1 - mask) + np.array(white) * mask
    picture = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).clip(0, 255).astype(np.uint8))
    return picture.resize(size, Image.Resampling.BILINEAR)


def draw_ground(canvas: Canvas, street: Street) -> None:
    """Draws skyline, verges, sidewalks, kerbs and asphalt, then patches and markings."""
    start = canvas.camera.z
    for x0, x1, height in street.skyline.tolist():
        z = start + SKYLINE_M
        canvas.solid(((x0, 0, z), (x1, 0, z), (x1, height, z), (x0, height, z)), street.look.walls[int(x1) % 3])
    for near, far in pairwise(BANDS_M):
        z0, z1 = start + near, start + far
        canvas.ground(-60, 60, z0, z1, street.verge)
        canvas.ground(-street.half_width, street.half_width, z0, z1, street.sidewalk)
        kerb = street.half_road + 0.18
        canvas.ground(-kerb, kerb, z0, z1, mix(street.sidewalk, (225, 225, 222), 0.5))
        canvas.ground(-street.half_road, street.half_road, z0, z1, street.asphalt)
    _draw_joints(canvas, street)
    for x0, x1, z0, z1, brightness in street.patches.tolist():
        if canvas.camera.sees(z1):
            tone = tuple(int(part * brightness) for part in street.asphalt)
            canvas.ground(x0, x1, max(z0, start + 1.2), z1, (tone[0], tone[1], tone[2]))
    worn = mix(street.asphalt, (160, 160, 160), 0.10)
    for lane in range(-street.look.lanes, street.look.lanes):
        for track in (0.75, 2.15):
            x = lane * LANE_M + track
            canvas.ground(x, x + 0.45, start + 1.2, start + 70, worn)
    if street.bike_lane is not None:
        for side in (-1, 1):
            edge = side * street.half_road
            canvas.ground(edge, edge + side * 1.3, start + 1.2, start + 120, street.bike_lane)
    _draw_paint(canvas, street)


def _draw_joints(canvas: Canvas, street: Street) -> None:
    """Lines between the slabs of the sidewalk."""
    start = canvas.camera.z
    line = mix(street.sidewalk, (60, 60, 60), 0.3)
    for i in range(int(start) + 3, int(start) + 40, 2):
        for side in (-1, 1):
            edge = side * (street.half_road + 0.2)
            canvas.ground(edge, side * street.half_width, i, i + 0.05, line)


def _draw_paint(canvas: Canvas, street: Street) -> None:
    look, start = street.look, canvas.camera.z
    centre, white = mix(look.centre_line, street.asphalt, 0.15), mix(WHITE, street.asphalt, 0.2)
    if look.double_line:
        for x in (-0.22, 0.1):
            canvas.ground(x, x + 0.12, start + 1.2, start + 150, centre)
    else:
        _dashes(canvas, -0.07, centre)
    for lane in range(1, look.lanes):
        for side in (-1, 1):
            _dashes(canvas, side * lane * LANE_M, white)
    if street.has_parking:
        for side in (-1, 1):
            x = side * (street.lane_edge + 0.05)
            canvas.ground(x, x + 0.1, start + 1.2, start + 120, white)
    if street.crossing_z is not None and canvas.camera.sees(street.crossing_z - 1):
        stripe = -street.half_road + 0.3
        while stripe < street.half_road - 0.4:
            canvas.ground(stripe, stripe + 0.5, street.crossing_z, street.crossing_z + 3.0, white)
            stripe += 1.0


def _dashes(canvas: Canvas, x: float, colour: RGB) -> None:
    """A broken line, 3 m of paint in every 9 m of road."""
    first = int(canvas.camera.z // 9)
    for i in range(first, first + 14):
        far = i * 9 + 3.0
        if canvas.camera.sees(far):
            canvas.ground(x, x + 0.14, max(i * 9, canvas.camera.z + 1.2), far, colour)


def draw_reflections(canvas: Canvas, camera: Camera) -> None:
    """Blends a blurred mirror image of everything above the horizon into the wet road."""
    horizon, width, height = int(camera.horizon), camera.width, camera.height
    above = canvas.image.crop((0, 0, width, horizon)).resize((width // 8, horizon // 8), reducing_gap=1.0)
    blurred = above.transpose(Image.Transpose.FLIP_TOP_BOTTOM).filter(ImageFilter.BoxBlur((1, 4)))
    mirrored = blurred.resize((width, height - horizon), Image.Resampling.BILINEAR)
    box = (0, horizon, width, height)
    canvas.image.paste(Image.blend(canvas.image.crop(box), mirrored, 0.34), box)
