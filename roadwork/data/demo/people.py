"""People on foot, and the bicycles some of them ride."""

from __future__ import annotations

from dataclasses import dataclass

from roadwork.data.demo.canvas import Pen
from roadwork.data.demo.light import RGB

# Runners and cyclists wear the colours that road crews wear.
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
class Pedestrian:
    """Somebody walking, 1.72 m tall; ``stride`` is how far the feet are apart, in metres."""

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
    """Somebody in a hi-vis vest and helmet.

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
    """A pedestrian on a bicycle, with or without a rider's box for food."""

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
