"""Construction machines and worksite layouts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from roadwork.demo.canvas import Item, Pen
from roadwork.demo.cities import BLACK, ORANGE, RED, WHITE, YELLOW, Look
from roadwork.demo.light import RGB, mix
from roadwork.demo.roadwork_objects import AMBER, ArrowBoard, Barrel, Barrier, Cone, DetourSign, Heap, Panel, WorkSign
from roadwork.demo.traffic import LIME, SKINS, VEST_ORANGE, Worker

STEEL: RGB = (62, 62, 64)
CAB_GLASS: RGB = (66, 86, 98)
MACHINE_PAINTS: tuple[RGB, ...] = ((246, 178, 22), (244, 126, 26), (250, 196, 30))
SOILS: tuple[RGB, ...] = ((186, 150, 98), (140, 110, 84), (120, 118, 114))
HELMETS: tuple[RGB, ...] = ((250, 246, 240), (250, 200, 30), (240, 110, 30))


@dataclass(frozen=True)
class Excavator:
    """A tracked excavator, side on, its arm digging to the left."""

    paint: RGB
    size: float

    def __call__(self, pen: Pen) -> None:
        s, paint = self.size, self.paint
        scaled = _Scaled(pen, s)
        scaled.polygon(
            ((-1.4, 0.1), (-1.2, 0), (1.2, 0), (1.4, 0.1), (1.4, 0.6), (1.2, 0.75), (-1.2, 0.75), (-1.4, 0.6)), STEEL
        )
        for x in (-1.05, -0.5, 0.05, 0.6, 1.1):
            pen.oval(x * s, 0.36 * s, 0.24 * s, 0.24 * s, (110, 108, 104))
        scaled.polygon(((-0.3, 0.75), (0.3, 0.75), (0.3, 0.95), (-0.3, 0.95)), BLACK)
        scaled.polygon(((-1.1, 0.95), (1.5, 0.95), (1.65, 1.2), (1.65, 1.9), (0.2, 2.0), (-1.1, 1.9)), paint)
        scaled.polygon(((0.9, 0.95), (1.5, 0.95), (1.65, 1.2), (1.65, 1.9), (0.9, 1.95)), paint, 0.75)
        scaled.polygon(((0.3, 1.35), (0.85, 1.35), (0.85, 1.65), (0.3, 1.65)), mix(paint, BLACK, 0.7))
        scaled.polygon(((-1.05, 1.2), (0.1, 1.2), (0.1, 2.9), (-0.8, 2.9), (-1.05, 2.2)), paint, 0.9)
        scaled.polygon(((-0.95, 1.5), (0.0, 1.5), (0.0, 2.75), (-0.74, 2.75), (-0.95, 2.2)), CAB_GLASS)
        scaled.polygon(((-1.0, 1.4), (-0.7, 1.75), (-2.4, 3.6), (-2.75, 3.4)), paint, 1.1)
        scaled.polygon(((-2.35, 3.65), (-2.85, 3.45), (-3.2, 1.5), (-2.95, 1.45)), paint, 0.9)
        pen.line(((-1.2 * s, 2.1 * s), (-2.3 * s, 3.2 * s)), 0.09 * s, (200, 200, 200))
        scaled.polygon(((-3.3, 1.6), (-2.8, 1.55), (-2.45, 0.9), (-2.75, 0.5), (-3.35, 0.75)), STEEL)
        pen.oval(-0.3 * s, 2.98 * s, 0.12 * s, 0.1 * s, AMBER)


class _Scaled:
    """A pen that scales coordinates by `size`."""

    def __init__(self, pen: Pen, size: float) -> None:
        self.pen, self.size = pen, size

    def polygon(self, points: tuple[tuple[float, float], ...], colour: RGB, shade: float = 1.0) -> None:
        self.pen.polygon([(x * self.size, y * self.size) for x, y in points], colour, shade)


@dataclass(frozen=True)
class Roller:
    """A road roller seen from behind, with its driver."""

    paint: RGB

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.95, 0.0, 0.95, 0.95, (92, 92, 94))
        pen.rect(-0.95, 0.5, 0.95, 0.8, (142, 142, 144))
        pen.rect(-1.05, 0.3, -0.95, 1.0, self.paint, shade=0.8)
        pen.rect(0.95, 0.3, 1.05, 1.0, self.paint, shade=0.8)
        pen.polygon(((-0.95, 0.95), (0.95, 0.95), (0.85, 1.6), (-0.85, 1.6)), self.paint)
        pen.stripes(-0.85, 1.02, 0.85, 1.2, (YELLOW, BLACK), pitch=0.4)
        pen.rect(-0.26, 1.55, 0.26, 2.1, VEST_ORANGE)
        pen.oval(0, 2.22, 0.12, 0.14, SKINS[1])
        for x in (-0.82, 0.76):
            pen.rect(x, 1.6, x + 0.06, 2.6, (70, 70, 70))
        pen.rect(-0.95, 2.55, 0.95, 2.68, self.paint)
        pen.oval(0, 2.76, 0.1, 0.09, AMBER)


@dataclass(frozen=True)
class CrewTruck:
    """A works truck seen from behind, with chevrons and an arrow of lamps."""

    paint: RGB
    stripes: tuple[RGB, RGB]

    def __call__(self, pen: Pen) -> None:
        for x in (-1.05, 0.7):
            pen.rect(x, 0.0, x + 0.35, 0.7, (28, 28, 28))
        pen.box(-1.15, 1.15, 0.5, 2.0, 5.5, colour=self.paint)
        pen.stripes(-1.15, 0.55, 0.0, 1.35, self.stripes, pitch=0.5)
        pen.stripes(0.0, 0.55, 1.15, 1.35, self.stripes, pitch=0.5)
        for x in (-1.12, 0.9):
            pen.rect(x, 0.42, x + 0.22, 0.56, RED, shade=1.4)
        pen.rect(-1.05, 1.95, 1.05, 3.05, (20, 20, 22))
        for x, y in (
            (-0.75, 2.5),
            (-0.5, 2.72),
            (-0.5, 2.28),
            (-0.4, 2.5),
            (-0.1, 2.5),
            (0.2, 2.5),
            (0.5, 2.5),
            (0.8, 2.5),
        ):
            pen.oval(x, y, 0.11, 0.11, AMBER, shade=1.5)
            pen.glow(x, y, 0.28, (255, 176, 40))
        for x in (-0.8, 0.8):
            pen.oval(x, 3.14, 0.15, 0.1, AMBER, shade=1.3)
            pen.glow(x, 3.14, 0.6, (255, 160, 30))


class Worksite:
    """Objects around a closed strip of road.

    Args:
        look: the region's style.
        x: middle of the strip, in metres to the right of the centre line.
        z: its near end, in metres along the street.
        inner: -1 where traffic passes on its left, 1 on its right.
        rng: source of all random choices.
    """

    def __init__(self, look: Look, x: float, z: float, inner: int, rng: np.random.Generator) -> None:
        self.look, self.x, self.z, self.inner, self.rng = look, x, z, inner, rng
        self.half = 1.55
        self.items: list[Item] = []
        self._cone_height = float(rng.uniform(0.75, 0.95))

    def add(
        self, thing: Callable[[Pen], None], dx: float, dz: float, half_width: float = 0.3, length: float = 0.5
    ) -> None:
        self.items.append(Item(self.x + dx, self.z + dz, thing, half_width, length, is_roadwork=True))

    def channeliser(self) -> Callable[[Pen], None]:
        if self.look.channeliser == "barrel":
            return Barrel()
        if self.look.channeliser == "panel" and self.rng.random() < 0.7:
            return Panel(has_lamp=bool(self.rng.random() < 0.6))
        return Cone(self._cone_height)

    def taper(self, count: int) -> None:
        """A slanting row that closes the strip, then a row along its inner edge."""
        for i in range(count):
            share = min(1.0, i / 3)
            self.add(self.channeliser(), -self.inner * self.half * (1 - 2 * share), 0.9 * i)

    def edge_row(self, count: int, start: float, pitch: float = 1.3) -> None:
        for i in range(count):
            self.add(self.channeliser(), self.inner * self.half, start + pitch * i)

    def barrier(self, dx: float, dz: float, width: float) -> None:
        self.add(Barrier(self.look.barrier, self.look.stripes, width), dx, dz, width / 2, 0.5)

    def sign(self, dx: float, dz: float) -> None:
        self.add(WorkSign(self.look.sign, self.look.sign_face), dx, dz, 0.5, 0.4)

    def worker(self, dx: float, dz: float) -> None:
        rng = self.rng
        tool = str(rng.choice(("none", "shovel", "paddle"), p=(0.4, 0.48, 0.12)))
        vest = VEST_ORANGE if rng.random() < 0.5 else LIME
        helmet = HELMETS[int(rng.integers(len(HELMETS)))]
        self.add(Worker(vest, helmet, SKINS[int(rng.integers(len(SKINS)))], tool), dx, dz)

    def machine_paint(self) -> RGB:
        return MACHINE_PAINTS[int(self.rng.integers(len(MACHINE_PAINTS)))]

    def excavator(self, dz: float) -> None:
        size = float(self.rng.uniform(0.7, 0.95))
        self.add(Excavator(self.machine_paint(), size), self.rng.uniform(-0.2, 0.6), dz, 1.6 * size, 2.2)

    def heap(self, dx: float, dz: float) -> None:
        self.add(Heap(SOILS[int(self.rng.integers(len(SOILS)))], self.rng.uniform(1.6, 2.4)), dx, dz, 1.0, 1.4)


def closed_lane(site: Worksite) -> None:
    """A taper, a barrier across, an arrow board behind it."""
    site.taper(7)
    site.barrier(0.0, 2.8, 2.4)
    if site.rng.random() < 0.6:
        site.add(ArrowBoard(), 0.0, 4.6, 1.2, 1.6)
    else:
        site.excavator(5.0)
    site.worker(site.rng.uniform(-0.8, 0.8), 3.6)
    site.sign(-site.inner * (site.half + 0.6), -0.2)


def pit(site: Worksite) -> None:
    """A hole fenced on two sides, with a heap and an excavator."""
    site.barrier(-0.5, 0.0, 2.2)
    site.barrier(1.5, 0.2, 1.8)
    site.edge_row(4, 0.8)
    site.heap(-0.4, 2.4)
    site.excavator(4.2)
    site.worker(site.inner * 0.6, 1.6)
    if site.rng.random() < 0.6:
        site.sign(site.inner * -2.2, -0.4)


def blocked_road(site: Worksite) -> None:
    """Barriers across the whole road, with a sign and a road-closed plate."""
    for dx in (-3.4, -1.1, 1.2, 3.5):
        site.barrier(dx, site.rng.uniform(1.0, 1.5), 2.1)
    closed = DetourSign(YELLOW if site.look.sign == "triangle" else ORANGE, BLACK)
    site.add(closed, site.rng.uniform(-0.6, 0.6), 2.0, 0.8, 0.3)
    for dx in (-2.3, 0.1, 2.4):
        site.add(site.channeliser(), dx, 0.3)
    site.sign(site.rng.choice((-1.9, 1.9)), 0.0)
    if site.rng.random() < 0.6:
        site.excavator(6.0)
    site.worker(site.rng.uniform(-2, 2), 2.6)


def mobile_crew(site: Worksite) -> None:
    """A works truck with an arrow board, cones, and one or two workers."""
    stripes = (WHITE, RED) if site.look.sign == "triangle" else (YELLOW, BLACK)
    site.add(CrewTruck(site.machine_paint(), stripes), 0.0, 2.6, 1.2, 5.5)
    for i in range(4):
        site.add(site.channeliser(), -site.inner * 1.2 * (1 - 2 * i / 3), 0.4 * i)
    site.edge_row(3, 2.2, 1.8)
    site.worker(-site.inner * 1.5, 1.8)
    if site.rng.random() < 0.5:
        site.worker(site.inner * 0.9, 1.9)


def paving(site: Worksite) -> None:
    """A roller, a row of cones along it, workers with shovels."""
    site.add(Roller(site.machine_paint()), 0.0, 2.6, 1.1, 3.0)
    site.edge_row(6, 0.0, 1.2)
    site.worker(-site.inner * 1.2, 1.6)
    site.worker(-site.inner * 0.5, 1.2)
    site.barrier(-site.inner * 0.7, 0.4, 1.8)
    site.sign(-site.inner * 2.0, 0.0)


def sidewalk_works(site: Worksite) -> None:
    """Barriers around a dug-up sidewalk, with slabs, sand and cones on the road."""
    site.barrier(0.3, 0.0, 2.3)
    for i in range(3):
        site.add(site.channeliser(), site.inner * (site.half + 0.1), 0.5 + 1.2 * i)
    site.heap(0.5, 1.6)
    site.barrier(0.2, 3.6, 2.3)
    site.worker(-0.5, 2.4)
    site.sign(site.inner * 1.4, -0.6)
    if site.rng.random() < 0.5:
        site.excavator(4.6)


AHEAD = (closed_lane, mobile_crew, paving, blocked_road)
BESIDE = (pit, sidewalk_works, closed_lane, paving)
