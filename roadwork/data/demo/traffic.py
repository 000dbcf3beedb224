"""Everything else in the street: traffic, people, trees, furniture and hard negatives, the same for both labels."""

from __future__ import annotations

import numpy as np

from roadwork.data.demo.furniture import ADVERTS, Advert, Bin, Bollard, Delineator, Lamp, TrafficSign, WirePole
from roadwork.data.demo.item import Item
from roadwork.data.demo.light import RGB, Light
from roadwork.data.demo.people import COATS, SKINS, TROUSERS, Cyclist, Pedestrian
from roadwork.data.demo.street import LANE_M, Street
from roadwork.data.demo.trees import AUTUMN, GREENS, Tree
from roadwork.data.demo.vehicles import FREIGHT, PAINTS, Car, Truck

ZONE_M = (3.0, 22.0)  # traffic keeps this stretch of the chosen side free, whether there is roadwork or not


class Surroundings:
    """Draws the items of one scene, ``side`` 1 keeping the right of the camera free and -1 the left."""

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
        """Cars that drive away ahead, and cars that come towards the camera; none of them inside the free stretch."""
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
        """Something red, white, orange or yellow that is no roadwork."""
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
