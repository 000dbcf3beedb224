"""Facades and trees along both sides of a street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.demo.canvas import Canvas, Pen
from roadwork.demo.cities import Look
from roadwork.demo.light import RGB, mix

STREET_END_M = 130.0
FLOOR_M = 3.1
LIT: tuple[RGB, ...] = ((255, 214, 130), (255, 196, 104), (250, 230, 180))
AWNINGS: tuple[RGB, ...] = ((206, 44, 40), (238, 118, 30), (34, 92, 60), (40, 70, 130), (240, 190, 40))
SHOPS: tuple[RGB, ...] = ((60, 54, 50), (38, 60, 84), (120, 34, 36), (226, 120, 34), (52, 84, 60), (230, 226, 216))
GREENS: tuple[RGB, ...] = ((62, 104, 48), (78, 120, 56), (50, 92, 52), (94, 124, 62))
AUTUMN: tuple[RGB, ...] = ((226, 128, 32), (206, 84, 30), (230, 170, 40), (186, 62, 34))
BARK: RGB = (86, 68, 54)


@dataclass(frozen=True)
class Building:
    """One facade in the plane x, from near to far.

    Attributes:
        glass: (floors, columns) index of each window's pane, 0 to 3; 3 is lit at dusk.
    """

    x: float
    near: float
    far: float
    height: float
    wall: RGB
    trim: RGB
    roof: str
    shop: RGB | None
    awning: RGB | None
    glass: np.ndarray

    @property
    def out(self) -> int:
        """Direction away from the street: 1 or -1."""
        return 1 if self.x > 0 else -1


def plan_buildings(look: Look, half_width: float, rng: np.random.Generator) -> list[Building]:
    """Buildings on both sides of the street, with gaps for side streets and parks; the farthest first."""
    buildings = []
    for side in (-1, 1):
        z = float(rng.uniform(4, 12))
        x = side * (half_width + look.setback)
        while z < STREET_END_M:
            width = float(rng.uniform(*look.frontage))
            if rng.random() < 0.14:
                z += float(rng.uniform(5, 16))
                continue
            buildings.append(_draw_building(look, x, z, width, rng))
            z += width + (float(rng.uniform(1, 4)) if look.setback > 1 else 0.0)
    return sorted(buildings, key=lambda building: -building.near)


def _draw_building(look: Look, x: float, z: float, width: float, rng: np.random.Generator) -> Building:
    floors = int(rng.integers(look.floors[0], look.floors[1] + 1))
    wall = look.walls[int(rng.integers(len(look.walls)))]
    grey = int(rng.integers(90, 240))
    wall = mix(wall, (grey, grey, grey), rng.uniform(0.0, 0.3))
    has_shop = look.setback < 2 and rng.random() < 0.5
    return Building(
        x=x,
        near=z,
        far=z + width,
        height=floors * FLOOR_M + rng.uniform(0.4, 1.2),
        wall=wall,
        trim=mix(wall, (250, 246, 236), 0.5) if rng.random() < 0.7 else mix(wall, (30, 26, 26), 0.5),
        roof=look.roof,
        shop=SHOPS[int(rng.integers(len(SHOPS)))] if has_shop else None,
        awning=AWNINGS[int(rng.integers(len(AWNINGS)))] if has_shop and rng.random() < 0.5 else None,
        glass=rng.integers(0, 4, (floors, max(2, round(width / rng.uniform(2.4, 3.4))))),
    )


def draw_building(canvas: Canvas, building: Building) -> None:
    """The gable end that faces the camera, then the facade with its roof, windows and shop."""
    camera, light = canvas.camera, canvas.light
    if not camera.sees(building.far - 1):
        return
    column, _ = camera.project(building.x, 0, building.far)
    if not 0 <= column <= canvas.camera.width:
        return
    x, out, near, far, top = building.x, building.out, building.near, building.far, building.height
    end = x + out * 11
    if camera.sees(near):
        canvas.solid(((x, 0, near), (end, 0, near), (end, top, near), (x, top, near)), building.wall, 0.82)
    _draw_roof(canvas, building)
    shade = light.shade(out)
    canvas.solid(((x, 0, near), (x, 0, far), (x, top, far), (x, top, near)), building.wall, shade)
    canvas.solid(
        ((x, top - 0.45, near), (x, top - 0.45, far), (x, top, far), (x, top, near)), building.trim, shade
    )  # fmt: skip
    _draw_windows(canvas, building, shade)
    if building.shop is not None:
        _draw_shop(canvas, building, building.shop, shade)


def _draw_roof(canvas: Canvas, building: Building) -> None:
    x, near, far, top, out = building.x, building.near, building.far, building.height, building.out
    tiles: RGB = mix((128, 66, 48), building.wall, 0.25) if building.out > 0 else mix((84, 78, 80), building.wall, 0.2)
    if building.roof == "pitched":
        ridge = (x + out * 4.0, top + 3.0)
        if canvas.camera.sees(near):
            gable = ((x, top, near), (ridge[0], ridge[1], near), (x + out * 8, top, near))
            canvas.solid(gable, building.wall, 0.82)
        canvas.solid(((x, top, near), (x, top, far), (*ridge, far), (*ridge, near)), tiles)
    elif building.roof == "gable":
        middle, width = (near + far) / 2, far - near
        neck = width * 0.16
        line = (
            (x, top, near), (x, top + 1.1, near + neck), (x, top + 1.1, middle - neck),
            (x, top + 2.6, middle - neck / 2),
            (x, top + 2.6, middle + neck / 2), (x, top + 1.1, middle + neck), (x, top + 1.1, far - neck), (x, top, far),
        )  # fmt: skip
        canvas.solid(line, building.wall, canvas.light.shade(out))


def _draw_windows(canvas: Canvas, building: Building, shade: float) -> None:
    """Windows with frames nearby, without frames further away, and bands of glass in the distance."""
    camera, light = canvas.camera, canvas.light
    floors, columns = building.glass.shape
    sky = mix(light.haze, light.zenith, 0.5)
    glass: tuple[RGB, ...] = ((44, 52, 62), mix((50, 58, 70), sky, 0.35), (30, 34, 42), (66, 72, 80))
    middle = (building.near + building.far) / 2 - camera.z
    first = 1 if building.shop is not None else 0
    project, x = camera.project, building.x
    if middle > 60:
        tone = light.tone(mix(glass[0], building.wall, 0.35), middle, shade)
        for floor in range(first, floors):
            low, high = floor * FLOOR_M + 1.0, floor * FLOOR_M + 2.5
            canvas.fill(
                [project(x, low, building.near), project(x, low, building.far), project(x, high, building.far),
                 project(x, high, building.near)], tone,
            )  # fmt: skip
        return
    pitch = (building.far - building.near) / columns
    frame = light.tone(building.trim, middle, shade)
    panes = [light.tone(pane, middle, shade) for pane in glass]
    if light.is_lit:
        panes[3] = LIT[columns % 3]
    for column in range(columns):
        z0 = building.near + (column + 0.27) * pitch
        z1 = z0 + 0.46 * pitch
        if not camera.sees(z0 - 1):
            continue
        s0, s1 = camera.scale(z0), camera.scale(z1)
        u0 = camera.centre + camera.side * (x - camera.x) * s0
        u1 = camera.centre + camera.side * (x - camera.x) * s1
        edge = (u1 - u0) * 0.14
        for floor in range(first, floors):
            low, high = floor * FLOOR_M + 0.95 - camera.y, floor * FLOOR_M + 2.6 - camera.y
            v0, w0, v1, w1 = (camera.horizon - h * s for s in (s0, s1) for h in (low, high))
            if middle < 36:
                rim = 0.12 * s0
                canvas.fill(
                    ((u0 - edge, v0 + rim), (u1 + edge, v1 + rim), (u1 + edge, w1 - rim), (u0 - edge, w0 - rim)), frame
                )
            canvas.fill(((u0, v0), (u1, v1), (u1, w1), (u0, w0)), panes[building.glass[floor, column]])
            if middle < 24:  # the bars between the panes
                canvas.line(((u0, (v0 * 2 + w0 * 3) / 5), (u1, (v1 * 2 + w1 * 3) / 5)), round(0.06 * s0), frame)
                canvas.line((((u0 + u1) / 2, (v0 + v1) / 2), ((u0 + u1) / 2, (w0 + w1) / 2)), round(0.05 * s0), frame)


def _draw_shop(canvas: Canvas, building: Building, colour: RGB, shade: float) -> None:
    """A ground floor of shop windows below a signboard, with or without an awning."""
    x, near, far = building.x, building.near, building.far
    canvas.solid(
        ((x, 0, near), (x, 0, far), (x, 3.3, far), (x, 3.3, near)), mix(building.wall, (40, 38, 38), 0.5), shade
    )
    canvas.solid(((x, 2.7, near), (x, 2.7, far), (x, 3.3, far), (x, 3.3, near)), colour, shade)
    pane: RGB = (255, 222, 160) if canvas.light.is_lit else (70, 82, 92)
    tone = canvas.light.tone(pane, 0.0) if not canvas.light.is_lit else pane
    count = max(1, round((far - near) / 4))
    pitch = (far - near) / count
    project = canvas.camera.project
    for i in range(count):
        z0, z1 = near + (i + 0.1) * pitch, near + (i + 0.9) * pitch
        if canvas.camera.sees(z0):
            canvas.fill([project(x, 0.6, z0), project(x, 0.6, z1), project(x, 2.5, z1), project(x, 2.5, z0)], tone)
    if building.awning is not None:
        _draw_awning(canvas, building, building.awning, shade)


def _draw_awning(canvas: Canvas, building: Building, colour: RGB, shade: float) -> None:
    x, edge, pitch = building.x, building.x - building.out * 1.4, 0.9
    stripes = (colour, (238, 236, 228))
    for i in range(int((building.far - building.near - 1) / pitch)):
        z0 = building.near + 0.5 + i * pitch
        z1 = z0 + pitch
        if canvas.camera.sees(z0):
            stripe = stripes[i % 2]
            canvas.solid(((x, 3.1, z0), (x, 3.1, z1), (edge, 2.5, z1), (edge, 2.5, z0)), stripe, shade)
            canvas.solid(((edge, 2.5, z0), (edge, 2.5, z1), (edge, 2.2, z1), (edge, 2.2, z0)), stripe, shade * 0.85)


class Tree:
    """A tree whose random shape is fixed for all images of a sequence."""

    def __init__(self, kind: str, leaves: RGB, rng: np.random.Generator) -> None:
        self.kind = kind
        self.leaves = leaves
        self.height = float(rng.uniform(5.0, 8.5)) * (1.25 if kind in {"palm", "tall"} else 1.0)
        count = 15
        angles, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
        self.clumps = np.stack([np.cos(angles) * reach, np.sin(angles) * reach, rng.uniform(0.34, 0.55, count)], 1)
        self.lean = float(rng.uniform(-0.3, 0.3))

    def __call__(self, pen: Pen) -> None:
        {"palm": self._palm, "gum": self._gum}.get(self.kind, self._crown)(pen)

    def _crown(self, pen: Pen) -> None:
        wide = {"slender": 1.15, "tall": 1.5}.get(self.kind, 1.9)
        tall = {"slender": 2.3, "tall": 2.9}.get(self.kind, 1.8)
        middle = self.height - tall * 0.8
        pen.polygon(((-0.17, 0), (0.17, 0), (0.1, middle), (-0.1, middle)), BARK)
        pen.line(((0, middle - 1.3), (wide * 0.5, middle)), 0.09, BARK)
        pen.line(((0, middle - 1.0), (-wide * 0.5, middle)), 0.09, BARK)
        self._clumps(pen, 0.0, middle, wide, tall)

    def _gum(self, pen: Pen) -> None:
        pale: RGB = (190, 178, 160)
        top = self.height
        pen.polygon(((-0.2, 0), (0.2, 0), (0.5, top * 0.75), (0.35, top * 0.75)), pale)
        pen.line(((0.1, top * 0.35), (-1.3, top * 0.8)), 0.14, pale)
        self._clumps(pen, 0.7, top * 0.82, 1.4, 0.9)
        self._clumps(pen, -1.2, top * 0.85, 1.1, 0.7)

    def _clumps(self, pen: Pen, x: float, y: float, wide: float, tall: float) -> None:
        """Clumps of leaves, dark below and bright above."""
        order = np.argsort(self.clumps[:, 1])
        for rank, (cx, cy, size) in enumerate(self.clumps[order].tolist()):
            shade = 0.66 + 0.5 * (rank / len(order))
            pen.oval(
                x + cx * wide * 0.75, y + cy * tall * 0.7, size * wide, size * tall * 0.8, self.leaves, shade=shade
            )

    def _palm(self, pen: Pen) -> None:
        top, lean = self.height, self.lean
        pen.polygon(((-0.18, 0), (0.18, 0), (lean + 0.1, top), (lean - 0.1, top)), mix(BARK, (160, 140, 120), 0.5))
        for i, (cx, cy, size) in enumerate(self.clumps.tolist()):
            reach, drop = 1.3 + size, cy * 1.1 - 0.1
            tip = (lean + cx * reach * 1.2, top + drop - 0.5)
            bend = (lean + cx * reach * 0.6, top + abs(drop) * 0.5 + 0.5)
            pen.polygon(((lean, top - 0.1), bend, tip, (bend[0], bend[1] - 0.35)), self.leaves, 0.7 + 0.03 * i)
