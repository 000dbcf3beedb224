"""Vehicles and people."""

from __future__ import annotations

import math
from dataclasses import dataclass

from roadwork.demo.canvas import Pen
from roadwork.demo.light import RGB, mix

GLASS: RGB = (42, 50, 60)
TYRE: RGB = (24, 24, 26)
TAIL: RGB = (196, 24, 26)
LAMP: RGB = (240, 238, 220)

# Half of these colours also occur on cones, barriers and machines.
PAINTS: tuple[RGB, ...] = (
    (232, 232, 230), (36, 38, 42), (120, 124, 130), (176, 180, 184), (38, 66, 122), (206, 30, 34), (70, 84, 72),
    (204, 186, 150), (250, 84, 20), (244, 110, 24), (246, 190, 22), (58, 110, 140), (255, 196, 40), (250, 100, 30),
)  # fmt: skip
FREIGHT: tuple[RGB, ...] = (
    (244, 110, 24), (250, 84, 20), (240, 240, 236), (206, 30, 34), (52, 92, 150), (255, 196, 40), (60, 112, 72),
    (206, 236, 40),
)  # fmt: skip

# Runners and cyclists wear the colours of road crews.
COATS: tuple[RGB, ...] = (
    (46, 54, 78), (120, 40, 44), (70, 90, 76), (36, 36, 40), (176, 168, 156), (96, 72, 110), (206, 30, 34),
    (255, 104, 20), (255, 104, 20), (206, 236, 40), (206, 236, 40), (250, 200, 30),
)  # fmt: skip
SKINS: tuple[RGB, ...] = ((232, 190, 160), (198, 148, 112), (142, 98, 70), (96, 66, 50))
TROUSERS: tuple[RGB, ...] = ((44, 52, 74), (34, 34, 36), (96, 88, 78), (70, 76, 90))
LIME: RGB = (206, 236, 40)
VEST_ORANGE: RGB = (255, 104, 20)
SILVER: RGB = (232, 234, 232)


@dataclass(frozen=True)
class Car:
    """A saloon, estate or taxi of 4.3 m.

    Attributes:
        paint: colour of the body.
        is_oncoming: shows its front.
        is_lit: lamps are on.
    """

    paint: RGB
    is_oncoming: bool
    is_lit: bool

    length = 4.3
    half_width = 0.88

    def __call__(self, pen: Pen) -> None:
        w = self.half_width
        _flank(pen, w, self.paint)
        far = pen.at(0, 1.0)
        pen.rect(-w + 0.05, 0.0, -w + 0.27, 0.35, TYRE)
        pen.rect(w - 0.27, 0.0, w - 0.05, 0.35, TYRE)
        far.polygon(((-0.74, 0.9), (0.74, 0.9), (0.6, 1.44), (-0.6, 1.44)), self.paint, 1.1)
        far.polygon(((-0.64, 0.95), (0.64, 0.95), (0.52, 1.36), (-0.52, 1.36)), mix(GLASS, pen.light.haze, 0.25))
        a, b = (pen.x - w, pen.x + w)
        deck = ((a, 0.92, pen.z), (b, 0.92, pen.z), (b - 0.15, 0.95, pen.z + 1.0), (a + 0.15, 0.95, pen.z + 1.0))
        pen.canvas.solid(deck, self.paint, 1.18)
        pen.polygon(((-w, 0.3), (w, 0.3), (w, 0.8), (w - 0.1, 0.95), (-w + 0.1, 0.95), (-w, 0.8)), self.paint)
        pen.rect(-w, 0.24, w, 0.42, mix(self.paint, TYRE, 0.7))
        self._lamps(pen)

    def _lamps(self, pen: Pen) -> None:
        w, colour = self.half_width, LAMP if self.is_oncoming else TAIL
        if self.is_oncoming:
            pen.rect(-0.45, 0.5, 0.45, 0.68, (30, 30, 32))
        pen.rect(-0.26, 0.44 if self.is_oncoming else 0.6, 0.26, 0.56 if self.is_oncoming else 0.72, (228, 226, 214))
        for side in (-1, 1):
            x = side * (w - 0.2)
            pen.rect(x - 0.17, 0.64, x + 0.17, 0.82, colour, shade=1.6 if self.is_lit else 1.0)
            if self.is_lit:
                pen.glow(
                    x, 0.72, 0.75 if self.is_oncoming else 0.45, (255, 236, 190) if self.is_oncoming else (255, 40, 30)
                )


def _flank(pen: Pen, w: float, paint: RGB) -> None:
    """The visible long side: body, windows and wheels."""
    side = 1 if pen.canvas.camera.x > pen.x else -1
    x, z, solid = pen.x + side * w, pen.z, pen.canvas.solid
    body = ((0.0, 0.3), (0.0, 0.9), (0.9, 1.0), (1.2, 1.42), (2.7, 1.42), (3.4, 0.95), (4.3, 0.8), (4.3, 0.3))
    solid([(x, y, z + dz) for dz, y in body], paint, 0.74)
    solid([(x, y, z + dz) for dz, y in ((1.05, 1.0), (1.3, 1.36), (2.65, 1.36), (3.2, 0.98))], GLASS, 0.9)
    for axle in (0.8, 3.45):
        solid([(x, 0.33 + 0.33 * s, z + axle + 0.33 * c) for c, s in _ROUND], TYRE)
        solid([(x, 0.33 + 0.18 * s, z + axle + 0.18 * c) for c, s in _ROUND], (150, 150, 154))


_ROUND = [(math.cos(i * math.pi / 5), math.sin(i * math.pi / 5)) for i in range(10)]


@dataclass(frozen=True)
class Truck:
    """A box truck, a van or a bus: a box on wheels.

    Attributes:
        paint: colour of the box.
        cab: colour of the cab.
        kind: ``truck``, ``van`` or ``bus``.
        is_oncoming: shows its front.
        is_lit: lamps are on.
    """

    paint: RGB
    cab: RGB
    kind: str
    is_oncoming: bool
    is_lit: bool

    @property
    def length(self) -> float:
        return {"truck": 7.5, "van": 5.2, "bus": 11.0}[self.kind]

    @property
    def half_width(self) -> float:
        return {"truck": 1.2, "van": 0.98, "bus": 1.25}[self.kind]

    def __call__(self, pen: Pen) -> None:
        w, top, low = self.half_width, {"truck": 3.4, "van": 2.25, "bus": 3.0}[self.kind], 0.45
        for x in (-w + 0.08, w - 0.42):
            pen.rect(x, 0.0, x + 0.34, 0.9, TYRE)
        pen.box(-w, w, low, top, self.length, colour=self.paint)
        self._side(pen, w, top)
        if self.is_oncoming or self.kind == "bus":
            self._windscreen(pen, w, top)
        else:
            self._doors(pen, w, top)
        pen.rect(-w, low - 0.1, w, low + 0.12, (44, 44, 48))
        for side in (-1, 1):
            x = side * (w - 0.2)
            pen.rect(
                x - 0.14,
                low + 0.02,
                x + 0.14,
                low + 0.22,
                LAMP if self.is_oncoming else TAIL,
                shade=1.5 if self.is_lit else 1,
            )
            if self.is_lit:
                pen.glow(x, low + 0.12, 0.7, (255, 236, 190) if self.is_oncoming else (255, 40, 30))

    def _side(self, pen: Pen, w: float, top: float) -> None:
        side = 1 if pen.canvas.camera.x > pen.x else -1
        x, z, solid = pen.x + side * w, pen.z, pen.canvas.solid
        if abs(pen.canvas.camera.x - pen.x) < w:
            return
        for axle in (1.2, self.length - 1.1):
            solid([(x, 0.45 + 0.45 * s, z + axle + 0.45 * c) for c, s in _ROUND], TYRE)
            solid([(x, 0.45 + 0.22 * s, z + axle + 0.22 * c) for c, s in _ROUND], (140, 140, 142))
        if self.kind == "bus":
            solid(((x, 1.3, z + 0.5), (x, top - 0.5, z + 0.5), (x, top - 0.5, z + 10.5), (x, 1.3, z + 10.5)), GLASS)
        elif self.kind == "truck":
            band = mix(self.paint, (255, 255, 255), 0.5)
            solid(((x, 1.6, z + 1), (x, 2.4, z + 1), (x, 2.4, z + 5), (x, 1.6, z + 5)), band, 0.72)

    def _windscreen(self, pen: Pen, w: float, top: float) -> None:
        if self.kind == "truck":
            pen.rect(-w, 0.4, w, 2.5, self.cab)
            top = 2.5
        elif self.kind == "van":
            pen.rect(-w, 0.4, w, 2.1, self.cab)
        pen.rect(-w + 0.12, top - 1.15, w - 0.12, top - 0.3, mix(GLASS, pen.light.haze, 0.25))
        pen.rect(-0.5, 0.62, 0.5, 0.8, (34, 34, 36))

    def _doors(self, pen: Pen, w: float, top: float) -> None:
        seam = mix(self.paint, (30, 30, 30), 0.35)
        pen.rect(-0.02, 0.55, 0.02, top - 0.1, seam)
        pen.rect(-w + 0.06, top - 0.12, w - 0.06, top - 0.04, seam)
        for x in (-0.22, 0.16):
            pen.rect(x, 0.6, x + 0.06, top - 0.15, mix(self.paint, (230, 230, 230), 0.5))
        if self.kind == "van":
            for x in (-w + 0.12, 0.12):
                pen.rect(x, 1.4, x + w - 0.24, top - 0.25, GLASS)


@dataclass(frozen=True)
class Pedestrian:
    """A pedestrian 1.72 m tall; ``stride`` is the distance between the feet in metres."""

    coat: RGB
    trousers: RGB
    skin: RGB
    stride: float

    def __call__(self, pen: Pen) -> None:
        _legs(pen, self.trousers, self.stride)
        pen.polygon(((-0.2, 0.78), (0.2, 0.78), (0.23, 1.42), (0.1, 1.5), (-0.1, 1.5), (-0.23, 1.42)), self.coat)
        pen.line(((-0.22, 1.38), (-0.28, 0.85)), 0.11, self.coat)
        pen.line(((0.22, 1.38), (0.28, 0.85)), 0.11, self.coat)
        pen.oval(0, 1.63, 0.105, 0.135, self.skin)
        pen.polygon(((-0.11, 1.64), (0.11, 1.64), (0.09, 1.78), (-0.09, 1.78)), (50, 38, 30))


@dataclass(frozen=True)
class Worker:
    """A worker in a hi-vis vest and helmet.

    Attributes:
        vest: colour of the vest.
        helmet: colour of the helmet.
        skin: colour of face and hands.
        tool: ``shovel``, ``paddle`` (a stop disc on a pole) or ``none``.
    """

    vest: RGB
    helmet: RGB
    skin: RGB
    tool: str

    def __call__(self, pen: Pen) -> None:
        legs: RGB = (38, 46, 70) if self.vest == VEST_ORANGE else self.vest
        _legs(pen, legs, 0.34)
        for x in (-0.19, 0.05):
            pen.rect(x, 0.3, x + 0.15, 0.38, SILVER)
        pen.polygon(((-0.25, 0.74), (0.25, 0.74), (0.29, 1.42), (0.12, 1.53), (-0.12, 1.53), (-0.29, 1.42)), self.vest)
        pen.rect(-0.26, 0.86, 0.26, 0.95, SILVER)
        pen.rect(-0.27, 1.1, 0.27, 1.19, SILVER)
        for x in (-0.17, 0.1):
            pen.rect(x, 1.19, x + 0.07, 1.5, SILVER)
        hand = (0.62, 1.12) if self.tool != "none" else (0.36, 0.82)
        pen.line(((-0.27, 1.38), (-0.36, 0.84)), 0.13, self.vest)
        pen.line(((0.27, 1.38), (0.42, 1.1), hand), 0.13, self.vest)
        pen.oval(*hand, 0.07, 0.07, self.skin)
        pen.oval(0, 1.64, 0.12, 0.15, self.skin)
        pen.polygon(((-0.16, 1.69), (0.18, 1.69), (0.14, 1.8), (0.05, 1.87), (-0.05, 1.87), (-0.13, 1.8)), self.helmet)
        if self.tool == "shovel":
            pen.line(((0.72, 0.1), (0.5, 1.5)), 0.05, (150, 110, 70))
            pen.rect(0.62, 0.0, 0.84, 0.3, (110, 112, 116))
        elif self.tool == "paddle":
            pen.rect(0.6, 0.0, 0.65, 1.7, (220, 220, 220))
            pen.oval(0.62, 1.9, 0.27, 0.27, (240, 240, 240))
            pen.oval(0.62, 1.9, 0.23, 0.23, (200, 28, 32))
            pen.rect(0.48, 1.86, 0.76, 1.95, (240, 240, 240))


def _legs(pen: Pen, colour: RGB, stride: float) -> None:
    pen.line(((-0.08, 0.82), (-0.08 - stride * 0.3, 0.08)), 0.15, colour)
    pen.line(((0.08, 0.82), (0.08 + stride * 0.3, 0.08)), 0.15, colour)
    for side in (-1, 1):
        x = side * (0.08 + stride * 0.3)
        pen.rect(x - 0.09, 0.0, x + 0.09, 0.1, (30, 28, 28))


@dataclass(frozen=True)
class Cyclist:
    """A cyclist, with or without a delivery box."""

    rider: Pedestrian
    box: RGB | None

    def __call__(self, pen: Pen) -> None:
        pen.oval(0, 0.34, 0.05, 0.34, (26, 26, 28))
        pen.rect(-0.03, 0.3, 0.03, 0.9, (60, 60, 64))
        pen.rect(-0.28, 1.0, 0.28, 1.05, (40, 40, 42))
        pen.line(((-0.09, 1.0), (-0.16, 0.4)), 0.14, self.rider.trousers)
        pen.line(((0.09, 1.0), (0.16, 0.5)), 0.14, self.rider.trousers)
        pen.polygon(((-0.2, 0.95), (0.2, 0.95), (0.25, 1.5), (-0.25, 1.5)), self.rider.coat)
        pen.line(((-0.24, 1.45), (-0.3, 1.05)), 0.1, self.rider.coat)
        pen.line(((0.24, 1.45), (0.3, 1.05)), 0.1, self.rider.coat)
        pen.oval(0, 1.66, 0.11, 0.14, (50, 40, 34))
        if self.box is not None:
            pen.rect(-0.24, 1.05, 0.24, 1.52, self.box)
            pen.rect(-0.12, 1.22, 0.12, 1.36, (245, 245, 240))
