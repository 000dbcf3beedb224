"""Excavators, rollers and the trucks of a road crew."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.data.demo.canvas import Pen
from roadwork.data.demo.light import RGB, mix
from roadwork.data.demo.people import SKINS, VEST_ORANGE
from roadwork.data.demo.regions import BLACK, RED, YELLOW
from roadwork.data.demo.roadwork_objects import AMBER

STEEL: RGB = (62, 62, 64)
GLASS: RGB = (66, 86, 98)
MACHINE_PAINTS: tuple[RGB, ...] = ((246, 178, 22), (244, 126, 26), (250, 196, 30))


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
        scaled.polygon(((-0.95, 1.5), (0.0, 1.5), (0.0, 2.75), (-0.74, 2.75), (-0.95, 2.2)), GLASS)
        scaled.polygon(((-1.0, 1.4), (-0.7, 1.75), (-2.4, 3.6), (-2.75, 3.4)), paint, 1.1)
        scaled.polygon(((-2.35, 3.65), (-2.85, 3.45), (-3.2, 1.5), (-2.95, 1.45)), paint, 0.9)
        pen.line(((-1.2 * s, 2.1 * s), (-2.3 * s, 3.2 * s)), 0.09 * s, (200, 200, 200))
        scaled.polygon(((-3.3, 1.6), (-2.8, 1.55), (-2.45, 0.9), (-2.75, 0.5), (-3.35, 0.75)), STEEL)
        pen.oval(-0.3 * s, 2.98 * s, 0.12 * s, 0.1 * s, AMBER)


class _Scaled:
    """A pen for shapes planned at the size of a large machine."""

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
    """A works truck from behind: chevrons below, an arrow of lamps above."""

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
