"""Where the objects of a roadwork stand: the layouts that drivers meet."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from roadwork.data.demo.canvas import Pen
from roadwork.data.demo.item import Item
from roadwork.data.demo.light import RGB
from roadwork.data.demo.machines import MACHINE_PAINTS, CrewTruck, Excavator, Roller
from roadwork.data.demo.people import LIME, SKINS, VEST_ORANGE, Worker
from roadwork.data.demo.regions import BLACK, ORANGE, RED, WHITE, YELLOW, Look
from roadwork.data.demo.roadwork_objects import ArrowBoard, Barrel, Barrier, Cone, DetourSign, Heap, Panel, WorkSign

SOILS: tuple[RGB, ...] = ((186, 150, 98), (140, 110, 84), (120, 118, 114))
HELMETS: tuple[RGB, ...] = ((250, 246, 240), (250, 200, 30), (240, 110, 30))


class Worksite:
    """Objects around a closed strip of road.

    Args:
        look: the region's convention.
        x: middle of the strip, in metres to the right of the centre line.
        z: its near end, in metres along the street.
        inner: -1 where traffic passes on its left, 1 on its right.
        rng: draws everything.
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
    """A hole fenced in on two sides, with its heap and its digger."""
    site.barrier(-0.5, 0.0, 2.2)
    site.barrier(1.5, 0.2, 1.8)
    site.edge_row(4, 0.8)
    site.heap(-0.4, 2.4)
    site.excavator(4.2)
    site.worker(site.inner * 0.6, 1.6)
    if site.rng.random() < 0.6:
        site.sign(site.inner * -2.2, -0.4)


def blocked_road(site: Worksite) -> None:
    """Barriers over the whole road, with a sign before and a plate between."""
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
    """A works truck with its arrow, some cones, a worker or two."""
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
