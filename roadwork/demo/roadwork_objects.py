"""Cones, barrels, barriers and signs in each region's style."""

from __future__ import annotations

import math
from dataclasses import dataclass

from roadwork.demo.canvas import Pen
from roadwork.demo.cities import BLACK, ORANGE, RED, WHITE, YELLOW
from roadwork.demo.light import RGB, mix

CONE: RGB = (250, 84, 20)
SILVER: RGB = (242, 242, 240)
RUBBER: RGB = (40, 38, 38)
AMBER: RGB = (255, 196, 40)


@dataclass(frozen=True)
class Cone:
    """A traffic cone of 0.75 to 0.95 m with two reflective collars."""

    height: float

    def __call__(self, pen: Pen) -> None:
        h, base = self.height, self.height * 0.27
        pen.box(-base, base, 0, 0.05, base * 2, colour=RUBBER)
        mid = pen.at(0, base)
        _frustum(mid, 0.04, h, base * 0.8, 0.035, colour=CONE)
        for low, high in ((0.36, 0.56), (0.68, 0.82)):
            _frustum(
                mid, h * low, h * high, base * 0.8 * (1 - low) + 0.02, base * 0.8 * (1 - high) + 0.03, colour=SILVER
            )


def _frustum(pen: Pen, low: float, high: float, wide: float, narrow: float, *, colour: RGB) -> None:
    """A round, tapering body, lit from the left and dark on the right."""
    pen.polygon(((-wide, low), (wide, low), (narrow, high), (-narrow, high)), colour)
    pen.polygon(((wide * 0.3, low), (wide, low), (narrow, high), (narrow * 0.3, high)), colour, 0.72)
    pen.polygon(((-wide * 0.7, low), (-wide * 0.35, low), (-narrow * 0.35, high), (-narrow * 0.7, high)), colour, 1.22)


@dataclass(frozen=True)
class Barrel:
    """An orange drum of 1 m with white bands."""

    def __call__(self, pen: Pen) -> None:
        pen.rect(-0.36, 0, 0.36, 0.1, RUBBER)
        for i, low in enumerate((0.08, 0.3, 0.48, 0.66, 0.84)):
            high = (0.3, 0.48, 0.66, 0.84, 1.04)[i]
            wide = 0.31 - 0.02 * i
            _frustum(pen, low, high, wide, wide - 0.012, colour=SILVER if i % 2 else CONE)
        pen.rect(-0.1, 1.04, 0.1, 1.12, CONE, shade=0.8)


@dataclass(frozen=True)
class Panel:
    """A red-white vertical guide panel on a foot, with a lamp."""

    has_lamp: bool

    def __call__(self, pen: Pen) -> None:
        pen.box(-0.2, 0.2, 0, 0.1, 0.7, colour=RUBBER)
        mid = pen.at(0, 0.3)
        mid.stripes(-0.15, 0.18, 0.15, 1.2, (WHITE, RED), pitch=0.5)
        if self.has_lamp:
            _beacon(mid, 0, 1.2)


def _beacon(pen: Pen, x: float, y: float) -> None:
    pen.rect(x - 0.07, y, x + 0.07, y + 0.07, (60, 60, 50))
    pen.oval(x, y + 0.15, 0.1, 0.1, AMBER, shade=1.8 if pen.light.is_lit else 1.0)
    if pen.light.is_lit:
        pen.glow(x, y + 0.15, 0.5, (255, 180, 50))


@dataclass(frozen=True)
class Barrier:
    """A barrier, ``width`` metres wide.

    Attributes:
        kind: ``board`` (Europe: one striped board with lamps), ``barricade`` (America: three boards), ``frame``
            (Japan: striped frames) or ``plastic`` (linked plastic walls).
    """

    kind: str
    stripes: tuple[RGB, RGB]
    width: float

    def __call__(self, pen: Pen) -> None:
        {"board": self._board, "barricade": self._barricade, "frame": self._frame}.get(self.kind, self._plastic)(pen)

    def _board(self, pen: Pen) -> None:
        half = self.width / 2
        for x in (-half + 0.25, half - 0.25):
            pen.box(x - 0.14, x + 0.14, 0, 0.12, 0.6, colour=RUBBER)
            pen.rect(x - 0.04, 0.1, x + 0.04, 1.1, (190, 192, 194))
        pen.stripes(-half, 0.78, half, 1.12, self.stripes, pitch=0.62)
        pen.stripes(-half, 0.25, half, 0.43, self.stripes, pitch=0.62)
        for x in (-half + 0.2, half - 0.2):
            _beacon(pen, x, 1.12)

    def _barricade(self, pen: Pen) -> None:
        half = self.width / 2
        for x in (-half + 0.2, half - 0.2):
            pen.rect(x - 0.05, 0, x + 0.05, 1.6, (206, 208, 206))
            pen.box(x - 0.07, x + 0.07, 0, 0.08, 0.9, colour=(150, 150, 150))
        for low in (0.4, 0.84, 1.28):
            pen.stripes(-half, low, half, low + 0.3, self.stripes, pitch=0.56)
        for x in (-half + 0.15, half - 0.15):
            _beacon(pen, x, 1.58)

    def _frame(self, pen: Pen) -> None:
        half = self.width / 2
        tube = self.stripes[0]
        for x in (-half + 0.1, half - 0.1):
            pen.line(((x - 0.18, 0), (x, 1.05), (x + 0.18, 0)), 0.07, tube)
        pen.stripes(-half, 0.66, half, 1.05, self.stripes, pitch=0.5)
        pen.stripes(-half, 0.24, half, 0.44, self.stripes, pitch=0.5)

    def _plastic(self, pen: Pen) -> None:
        count = max(1, round(self.width))
        pitch = self.width / count
        for i in range(count):
            x = -self.width / 2 + i * pitch
            colour = self.stripes[i % 2] if self.stripes[0] == ORANGE else self.stripes[0]
            pen.box(x, x + pitch - 0.03, 0.0, 0.24, 0.45, colour=colour)
            pen.box(x + 0.05, x + pitch - 0.08, 0.24, 1.02, 0.2, colour=colour)
            pen.rect(x + 0.12, 0.66, x + pitch - 0.14, 0.88, SILVER if colour != SILVER else RED)
            pen.rect(x + 0.16, 0.1, x + 0.36, 0.17, mix(colour, BLACK, 0.6))


@dataclass(frozen=True)
class WorkSign:
    """A temporary warning sign with a digging figure: a triangle, or a diamond."""

    shape: str
    face: RGB

    def __call__(self, pen: Pen) -> None:
        foot = 0.75
        pen.line(((-0.4, 0), (0, foot + 0.1), (0.4, 0)), 0.06, (120, 122, 124))
        if self.shape == "triangle":
            pen.polygon(((-0.66, foot), (0.66, foot), (0, foot + 1.14)), RED)
            pen.polygon(((-0.45, foot + 0.12), (0.45, foot + 0.12), (0, foot + 0.9)), self.face)
            _digger(pen, 0.0, foot + 0.16, 0.5)
        else:
            pen.polygon(((0, foot - 0.1), (0.82, foot + 0.72), (0, foot + 1.54), (-0.82, foot + 0.72)), BLACK)
            pen.polygon(((0, foot - 0.03), (0.75, foot + 0.72), (0, foot + 1.47), (-0.75, foot + 0.72)), self.face)
            _digger(pen, 0.0, foot + 0.36, 0.8)


def _digger(pen: Pen, x: float, y: float, size: float) -> None:
    """The standard pictogram of a figure with a shovel beside a heap."""
    s = size
    pen.polygon(((x + 0.12 * s, y), (x + 0.5 * s, y), (x + 0.3 * s, y + 0.24 * s)), BLACK)
    pen.line(((x - 0.3 * s, y), (x - 0.2 * s, y + 0.4 * s), (x - 0.04 * s, y + 0.66 * s)), 0.13 * s, BLACK)
    pen.line(((x - 0.08 * s, y), (x - 0.2 * s, y + 0.4 * s)), 0.12 * s, BLACK)
    pen.line(((x - 0.04 * s, y + 0.6 * s), (x + 0.08 * s, y + 0.4 * s)), 0.1 * s, BLACK)
    pen.line(((x - 0.16 * s, y + 0.5 * s), (x + 0.3 * s, y + 0.16 * s)), 0.05 * s, BLACK)
    pen.oval(x + 0.02 * s, y + 0.76 * s, 0.1 * s, 0.1 * s, BLACK)


@dataclass(frozen=True)
class DetourSign:
    """A plate on legs: road closed, keep left or detour."""

    face: RGB
    ink: RGB

    def __call__(self, pen: Pen) -> None:
        for x in (-0.5, 0.5):
            pen.rect(x - 0.04, 0, x + 0.04, 1.0, (150, 152, 154))
        pen.rect(-0.78, 0.9, 0.78, 1.62, BLACK)
        pen.rect(-0.73, 0.95, 0.73, 1.57, self.face)
        pen.polygon(
            ((-0.62, 1.26), (-0.34, 1.5), (-0.34, 1.34), (0.1, 1.34), (0.1, 1.18), (-0.34, 1.18), (-0.34, 1.02)),
            self.ink,
        )
        for i in range(2):
            pen.rect(0.2, 1.1 + 0.2 * i, 0.64 - 0.1 * i, 1.2 + 0.2 * i, self.ink)


@dataclass(frozen=True)
class ArrowBoard:
    """A trailer with a black board of lamps that form an arrow, pointing to the left."""

    def __call__(self, pen: Pen) -> None:
        for x in (-0.75, 0.75):
            pen.oval(x, 0.32, 0.16, 0.32, RUBBER)
        pen.box(-0.8, 0.8, 0.4, 0.7, 1.5, colour=ORANGE)
        pen.rect(-0.07, 0.7, 0.07, 1.5, (160, 160, 160))
        pen.rect(-1.25, 1.4, 1.25, 2.75, YELLOW, shade=0.8)
        pen.rect(-1.17, 1.47, 1.17, 2.68, (18, 18, 20))
        shaft = [(x, 2.08) for x in (-0.55, -0.2, 0.15, 0.5, 0.85)]
        head = [(-0.9 + 0.3 * abs(i), 2.08 + 0.21 * i) for i in (-2, -1, 0, 1, 2)]
        for x, y in shaft + head:
            pen.oval(x, y, 0.12, 0.12, AMBER, shade=1.7 if pen.light.is_lit else 1.15)
            pen.glow(x, y, 0.3, (255, 176, 40))


@dataclass(frozen=True)
class Heap:
    """Sand or rubble, or a stack of slabs and pipes."""

    colour: RGB
    width: float

    def __call__(self, pen: Pen) -> None:
        w, h = self.width / 2, self.width * 0.32
        ridge = [(w * math.cos(a), h * math.sin(a) ** 0.8 * (1 + 0.12 * math.cos(5 * a))) for a in _ARC]
        pen.polygon(ridge, self.colour)
        pen.polygon([(x if x > 0 else x * 0.1, y) for x, y in ridge], self.colour, 0.78)
        for x, y in ridge[2:-2]:
            pen.oval(x * 0.6, y * 0.5, 0.09, 0.06, self.colour, shade=0.7)


_ARC = [math.pi * i / 12 for i in range(13)]
