"""Plans a scene from its sequence and seed, and draws its images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from roadwork.demo.buildings import Building, draw_building, plan_buildings
from roadwork.demo.canvas import Camera, Canvas, Item, draw_items, stencil_items
from roadwork.demo.light import Light, draw_light, finish
from roadwork.demo.places import Sequence, stream
from roadwork.demo.street import LANE_M, Street, draw_ground, draw_reflections, draw_sky, plan_street
from roadwork.demo.surroundings import Surroundings
from roadwork.demo.worksites import AHEAD, BESIDE, Worksite, closed_lane

SUPERSAMPLING = 2

# Share of the first image that roadwork covers. Below 1.3 % a small network no longer finds it; far above this range a
# colour histogram would be enough.
VISIBLE_SHARE = (0.018, 0.04)
ATTEMPTS = 12
STENCIL_WIDTH = 160


@dataclass(frozen=True)
class Lens:
    """Camera mounting: lengths as shares of the image, except ``x`` and ``y`` in metres."""

    focal: float
    centre: float
    horizon: float
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """Everything visible at one place; ``items`` are in front of the buildings."""

    sequence: Sequence
    seed: int
    light: Light
    lens: Lens
    street: Street
    buildings: list[Building]
    items: list[Item]

    def camera(self, frame: int, size: tuple[int, int]) -> Camera:
        """The camera of one image, on a canvas of this size in pixels."""
        width, height = size
        lens, sequence = self.lens, self.sequence
        return Camera(
            width=width,
            height=height,
            focal=lens.focal * width,
            centre=(0.5 + lens.centre) * width,
            horizon=lens.horizon * height,
            x=lens.x,
            y=lens.y,
            z=frame * sequence.step_m,
            side=sequence.look.side,
        )

    def visible_share(self, frame: int) -> float:
        """Share of an image's pixels that show unoccluded roadwork."""
        if not any(item.is_roadwork for item in self.items):
            return 0.0
        size = (STENCIL_WIDTH, STENCIL_WIDTH * 3 // 4)
        stencil = Image.new("L", size, 0)
        stencil_items(Canvas(stencil, self.camera(frame, size), self.light), self.items, frame)
        return stencil.histogram()[255] / (size[0] * size[1])

    def pictures(self, size: tuple[int, int]) -> list[Image.Image]:
        """All images of the sequence, in order of time."""
        canvas_size = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
        sky = draw_sky(
            canvas_size,
            self.lens.horizon * canvas_size[1],
            self.light,
            stream(self.seed, "sky", self.sequence.index),
        )
        return [self._picture(frame, sky) for frame in range(self.sequence.frames)]

    def _picture(self, frame: int, sky: Image.Image) -> Image.Image:
        canvas = Canvas(sky.copy(), self.camera(frame, sky.size), self.light)
        draw_ground(canvas, self.street)
        for building in self.buildings:
            draw_building(canvas, building)
        if self.light.is_wet:
            draw_reflections(canvas, canvas.camera)
        draw_items(canvas, self.items, frame)
        rng = stream(self.seed, "sensor", self.sequence.index, frame)
        return finish(canvas.image.reduce(SUPERSAMPLING), self.light, rng, self.sequence.look.sensor)


def plan_scene(sequence: Sequence, seed: int) -> Scene:
    """The scene of a sequence; only the roadwork depends on the label, the rest on seed and index."""
    rng = stream(seed, "scene", sequence.index)
    look = sequence.look
    light = draw_light(rng, sequence.condition, look.warmth)
    street = plan_street(look, rng)
    lens = Lens(
        focal=rng.uniform(0.78, 0.9),
        centre=rng.uniform(-0.05, 0.05),
        horizon=rng.uniform(0.43, 0.5),
        x=street.drive_x + rng.normal(0, 0.15),
        y=rng.uniform(1.3, 1.6),
    )
    buildings = plan_buildings(look, street.half_width, rng)
    side = 1 if rng.random() < 0.72 else -1
    items = Surroundings(street, light, side, sequence.step_m, rng).draw()
    scene = Scene(sequence, seed, light, lens, street, buildings, items)
    return _with_roadwork(scene, side) if sequence.label else scene


def _with_roadwork(scene: Scene, side: int) -> Scene:
    """The scene with a worksite, moved nearer or farther until its visible share is within VISIBLE_SHARE."""
    least, most = VISIBLE_SHARE
    index, last = scene.sequence.index, scene.sequence.frames - 1
    distance = float(stream(scene.seed, "distance", index).uniform(4.5, 9.0))
    chosen: Scene | None = None
    for attempt in range(ATTEMPTS):
        rng = stream(scene.seed, "worksite", index, attempt)
        planned = replace(scene, items=scene.items + _draw_works(scene, side, distance, attempt, rng))
        first_share, share = planned.visible_share(0), planned.visible_share(last)
        if min(first_share, share) < least:
            distance = max(3.4, distance - 1.0)
            continue
        chosen = planned
        if first_share <= most:
            break
        distance += 1.2
    return chosen or planned


def _draw_works(scene: Scene, side: int, distance: float, attempt: int, rng: np.random.Generator) -> list[Item]:
    """A random layout on the side that traffic keeps free; the last attempts close the camera's own lane."""
    street, sequence = scene.street, scene.sequence
    z = (sequence.frames - 1) * sequence.step_m + distance
    x, layouts, inner = street.drive_x, AHEAD, -1
    if side < 0:
        x, layouts, inner = street.drive_x - LANE_M - 0.2, BESIDE, 1
    elif rng.random() < 0.4 and attempt < ATTEMPTS - 3:
        x, layouts = street.lane_edge + rng.uniform(0.2, 1.2), BESIDE
    site = Worksite(street.look, float(x), z, inner, rng)
    layout = closed_lane if attempt >= ATTEMPTS - 3 else layouts[int(rng.integers(len(layouts)))]
    layout(site)
    return site.items
