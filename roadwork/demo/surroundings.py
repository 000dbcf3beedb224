"""Street furniture, traffic and hard negatives placed in a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roadwork.demo.buildings import AUTUMN, GREENS, Tree
from roadwork.demo.canvas import Item, Pen
from roadwork.demo.cities import BLACK, RED, WHITE, YELLOW
from roadwork.demo.light import RGB, Light, mix
from roadwork.demo.street import LANE_M, Street
from roadwork.demo.traffic import COATS, FREIGHT, PAINTS, SKINS, TROUSERS, Car, Cyclist, Pedestrian, Truck

STEEL: RGB = (104, 108, 114)
ADVERTS: tuple[tuple[RGB, RGB], ...] = (
    ((250, 84, 20), (250, 240, 220)), ((206, 30, 34), (242, 242, 240)), ((255, 196, 40), (26, 26, 28)),
    ((26, 26, 28), (255, 196, 40)), ((206, 236, 40), (26, 26, 28)), ((244, 110, 24), (26, 26, 28)),
    ((40, 96, 168), (240, 240, 240)), ((242, 242, 240), (206, 30, 34)),
)  # fmt: skip
ZONE_M = (3.0, 22.0)  # kept free of traffic on the chosen side, with or without roadwork


@dataclass(frozen=True)
class Lamp:
    """A street lamp of 7 m whose arm reaches over the road, in the direction ``towards`` (1 or -1)."""

    towards: int

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.09, 0, 0.09, 1.0, STEEL, shade=0.8)
        pen.rect(-0.06, 0, 0.06, 6.9, STEEL)
        pen.line(((0, 6.8), (self.towards * 0.7, 7.15), (self.towards * 1.7, 7.2)), 0.09, STEEL)
        pen.rect(self.towards * 1.7 - 0.35, 7.08, self.towards * 1.7 + 0.35, 7.24, (70, 72, 76))
        if pen.light.is_lit:
            pen.rect(self.towards * 1.7 - 0.28, 7.02, self.towards * 1.7 + 0.28, 7.1, (255, 255, 230), shade=2.0)
            pen.glow(self.towards * 1.7, 7.05, 1.1, (255, 214, 150))


@dataclass(frozen=True)
class WirePole:
    """A wooden pole with cross-arms, an insulator and a transformer."""

    def __call__(self, pen: Pen) -> None:
        wood: RGB = (104, 88, 74)
        pen.polygon(((-0.16, 0), (0.16, 0), (0.11, 9.5), (-0.11, 9.5)), wood)
        for y in (8.2, 9.0):
            pen.rect(-1.1, y, 1.1, y + 0.13, wood, shade=0.85)
            for x in (-1.0, -0.5, 0.5, 1.0):
                pen.rect(x - 0.04, y + 0.13, x + 0.04, y + 0.3, (200, 200, 200))
        pen.rect(0.16, 6.6, 0.6, 7.6, (126, 130, 134))


@dataclass(frozen=True)
class Bollard:
    """A red-white post that keeps cars off the sidewalk."""

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.07, 0.0, 0.07, 0.95, WHITE)
        for y in (0.08, 0.42, 0.76):
            pen.rect(-0.07, y, 0.07, y + 0.17, RED)
        pen.oval(0, 0.95, 0.07, 0.05, RED)


@dataclass(frozen=True)
class Delineator:
    """A white guide post with a black band and an orange reflector."""

    def __call__(self, pen: Pen) -> None:
        pen.polygon(((-0.07, 0), (0.07, 0), (0.06, 1.0), (-0.06, 0.95)), WHITE)
        pen.rect(-0.065, 0.62, 0.065, 0.84, BLACK)
        pen.rect(-0.03, 0.66, 0.03, 0.8, (250, 130, 30))


@dataclass(frozen=True)
class Advert:
    """A poster: a lit panel on the sidewalk, or a billboard on posts."""

    ground: RGB
    print: RGB
    is_billboard: bool

    def __call__(self, pen: Pen) -> None:
        half, low, high = (1.9, 2.6, 4.7) if self.is_billboard else (0.65, 0.45, 2.3)
        for x in (-half * 0.7, half * 0.7):
            pen.rect(x - 0.06, 0, x + 0.06, low, STEEL)
        pen.rect(-half - 0.08, low - 0.08, half + 0.08, high + 0.08, (60, 62, 66))
        glow = 1.5 if pen.light.is_lit else 1.0
        pen.rect(-half, low, half, high, self.ground, shade=glow)
        tall = high - low
        pen.oval(-half * 0.35, low + tall * 0.55, half * 0.35, tall * 0.26, self.print, shade=glow)
        for i in range(3):
            y = low + tall * (0.28 + 0.17 * i)
            pen.rect(half * 0.1, y, half * (0.85 - 0.18 * i), y + tall * 0.08, self.print, shade=glow)
        pen.rect(
            -half * 0.8, low + tall * 0.08, half * 0.8, low + tall * 0.16, mix(self.print, self.ground, 0.4), shade=glow
        )


@dataclass(frozen=True)
class TrafficSign:
    """A permanent sign: a warning of children or a bend, a speed limit, or no parking."""

    kind: str
    shape: str

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.04, 0, 0.04, 2.3, STEEL)
        if self.kind == "warning" and self.shape == "triangle":
            pen.polygon(((-0.42, 2.2), (0.42, 2.2), (0, 2.93)), RED)
            pen.polygon(((-0.27, 2.29), (0.27, 2.29), (0, 2.76)), WHITE)
            pen.rect(-0.04, 2.34, 0.04, 2.6, BLACK)
        elif self.kind == "warning":
            pen.polygon(((0, 2.1), (0.46, 2.56), (0, 3.02), (-0.46, 2.56)), YELLOW)
            pen.line(((-0.02, 2.3), (-0.02, 2.6), (0.12, 2.75)), 0.08, BLACK)
        elif self.kind == "limit":
            pen.oval(0, 2.6, 0.34, 0.34, RED)
            pen.oval(0, 2.6, 0.25, 0.25, WHITE)
            for x in (-0.12, 0.02):
                pen.rect(x, 2.5, x + 0.1, 2.7, BLACK)
        else:
            pen.oval(0, 2.6, 0.34, 0.34, RED)
            pen.oval(0, 2.6, 0.27, 0.27, (38, 74, 160))
            pen.line(((-0.19, 2.79), (0.19, 2.41)), 0.08, RED)


@dataclass(frozen=True)
class Bin:
    """A litter bin or letter box."""

    colour: RGB

    def __call__(self, pen: Pen) -> None:
        pen.box(-0.26, 0.26, 0.1, 1.05, 0.4, colour=self.colour)
        pen.rect(-0.18, 0.8, 0.18, 0.88, BLACK)
        pen.rect(-0.28, 1.0, 0.28, 1.1, mix(self.colour, BLACK, 0.3))


class Surroundings:
    """Draws the items of a scene; ``side`` 1 keeps the right of the camera free, -1 the left."""

    def __init__(self, street: Street, light: Light, side: int, step_m: float, rng: np.random.Generator) -> None:
        self.street, self.light, self.side, self.step_m, self.rng = street, light, side, step_m, rng
        self.items: list[Item] = []

    def draw(self) -> list[Item]:
        self._lamps()
        self._trees()
        self._traffic()
        self._parked()
        self._people()
        for _ in range(int(self.rng.integers(5, 10))):
            self._distractor()
        return self.items

    def _add(self, item: Item) -> None:
        self.items.append(item)

    def _pick(self, colours: tuple[RGB, ...]) -> RGB:
        return colours[int(self.rng.integers(len(colours)))]

    def _lamps(self) -> None:
        x, offset = self.street.half_road + 0.5, float(self.rng.uniform(4, 24))
        for i in range(3):
            side = 1 if i % 2 else -1
            self._add(Item(side * x, offset + 13 * i, Lamp(-side), 0.2))
        if self.street.look.poles:
            for i in range(3):
                self._add(Item(x + 0.4, offset + 6 + 22 * i, WirePole(), 0.2))

    def _trees(self) -> None:
        rng, street = self.rng, self.street
        colours = AUTUMN if rng.random() < 0.3 else GREENS
        for side in (-1, 1):
            if rng.random() < 0.3:
                continue
            z, pitch = float(rng.uniform(7, 16)), float(rng.uniform(8, 14))
            while z < 80:
                kind = str(rng.choice(street.look.trees))
                leaves = self._pick(GREENS if kind == "palm" else colours)
                x = side * (street.half_road + rng.uniform(0.9, 1.6))
                self._add(Item(x, z, Tree(kind, leaves, rng), 0.7, 1.4))
                z += pitch * float(rng.uniform(0.8, 1.3))

    def _vehicle(self, is_oncoming: bool) -> Car | Truck:
        rng, lit = self.rng, self.light.is_lit or self.light.is_wet
        if rng.random() < 0.68:
            return Car(self._pick(PAINTS), is_oncoming, lit)
        kind = str(rng.choice(("truck", "van", "bus"), p=(0.5, 0.35, 0.15)))
        paint = self._pick(FREIGHT)
        return Truck(paint, self._pick((paint, (236, 236, 234))), kind, is_oncoming, lit)

    def _traffic(self) -> None:
        """Cars ahead and oncoming cars; none inside ZONE_M on the free side."""
        rng, lanes = self.rng, self.street.look.lanes
        for lane in range(lanes):
            z = float(rng.uniform(24, 42))
            while z < 90:
                thing = self._vehicle(is_oncoming=False)
                speed = self.step_m + float(rng.uniform(-0.3, 1.0))
                self._add(
                    Item((lane + 0.5) * LANE_M + rng.normal(0, 0.15), z, thing, thing.half_width, thing.length, speed)
                )
                z += thing.length + float(rng.uniform(6, 40))
        for lane in range(lanes):
            z = float(rng.uniform(7, 40)) if self.side > 0 else float(rng.uniform(38, 60))
            while z < 110:
                thing = self._vehicle(is_oncoming=True)
                speed = -float(rng.uniform(2.0, 6.0))
                self._add(
                    Item(-(lane + 0.5) * LANE_M + rng.normal(0, 0.15), z, thing, thing.half_width, thing.length, speed)
                )
                z += thing.length + float(rng.uniform(8, 40))

    def _parked(self) -> None:
        if not self.street.has_parking:
            return
        for side in (-1, 1):
            x, z = side * (self.street.half_road - 1.05), float(self.rng.uniform(-2, 6))
            while z < 70:
                thing = self._vehicle(is_oncoming=side < 0)
                is_free = side == self.side and z < ZONE_M[1] and z + thing.length > ZONE_M[0]
                is_bus = isinstance(thing, Truck) and thing.kind == "bus"
                if self.rng.random() < 0.62 and not is_free and not is_bus:
                    still = Car(thing.paint, side < 0, is_lit=False) if isinstance(thing, Car) else thing
                    self._add(Item(x, z, still, thing.half_width, thing.length))
                z += 5.6 if isinstance(thing, Car) else thing.length + 1.0

    def _people(self) -> None:
        rng, street = self.rng, self.street
        for _ in range(int(rng.integers(2, 8))):
            side = int(rng.choice((-1, 1)))
            x = side * rng.uniform(street.half_road + 0.6, street.half_width - 0.4)
            self._add(Item(x, rng.uniform(9, 40), self._pedestrian(), 0.25, 0.4, rng.uniform(-1.2, 1.2)))
        if rng.random() < 0.35:
            box = self._pick(((246, 120, 24), (40, 160, 120), (30, 30, 34))) if rng.random() < 0.5 else None
            x, z = street.lane_edge + 0.2, rng.uniform(19, 34)
            self._add(Item(x, z, Cyclist(self._pedestrian(), box), 0.3, 1.6, rng.uniform(1.5, 3.0)))

    def _pedestrian(self) -> Pedestrian:
        stride = float(self.rng.uniform(0.1, 0.5))
        return Pedestrian(self._pick(COATS), self._pick(TROUSERS), self._pick(SKINS), stride)

    def _distractor(self) -> None:
        """A hard negative: something red, white, orange or yellow that is not roadwork."""
        rng, street = self.rng, self.street
        side = int(rng.choice((-1, 1)))
        kerb, z = side * (street.half_road + 0.35), float(rng.uniform(6, 24))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            pitch = rng.uniform(1.4, 2.4)
            for i in range(int(rng.integers(3, 9))):
                self._add(Item(kerb, z + pitch * i, Bollard(), 0.1, 0.2))
        elif kind == 1:
            for i in range(int(rng.integers(3, 8))):
                self._add(Item(kerb, z + 4.0 * i, Delineator(), 0.1, 0.2))
        elif kind == 2:
            ground, ink = ADVERTS[int(rng.integers(len(ADVERTS)))]
            self._add(
                Item(
                    side * (street.half_width - 0.8),
                    z + 3,
                    Advert(ground, ink, is_billboard=bool(rng.random() < 0.4)),
                    0.8,
                )
            )
        elif kind == 3:
            sign = str(rng.choice(("warning", "limit", "parking")))
            self._add(Item(kerb, z, TrafficSign(sign, street.look.sign), 0.1, 0.2))
        elif kind == 4:
            self._add(
                Item(
                    kerb + side * 0.4,
                    z,
                    Bin(self._pick(((250, 84, 20), (255, 196, 40), (206, 30, 34), (206, 236, 40)))),
                    0.3,
                )
            )
        else:
            orange: RGB = (238, 110, 26)
            is_oncoming = side < 0
            thing = (
                Truck(orange, orange, "truck", is_oncoming, self.light.is_lit)
                if rng.random() < 0.5
                else Car(orange, is_oncoming, self.light.is_lit)
            )
            speed = -2.5 if is_oncoming else self.step_m + 0.4
            z = float(rng.uniform(12, 40)) if side < 0 < self.side else float(rng.uniform(28, 44))
            x = side * LANE_M * (street.look.lanes - 0.5)
            self._add(Item(x, z, thing, thing.half_width, thing.length, speed))
